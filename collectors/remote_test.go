package collectors

import (
	"bytes"
	"context"
	"errors"
	"net"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/test/hostile"
)

func TestRemoteSeesWhatTheRecorderStored(t *testing.T) {
	sink, source := &memory{}, &scripted{name: "s", events: make(chan kmodquery.Event)}
	recorder := NewRecorder(sink, (&reports{}).add, Options{Sources: []Source{source}, SideBySide: true})
	recorder.Start(t.Context())
	path := filepath.Join(t.TempDir(), "s")
	remote := NewRemote(func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}, []string{"s"})

	require.NoError(t, remote.Sync(t.Context()), "no recorder, nothing to wait for")
	require.Equal(t, kmodquery.StateFailed, remote.Sensors()[0].State)

	listener, err := net.Listen("unix", path)
	require.NoError(t, err)
	shared := make(chan struct{})
	go func() {
		defer close(shared)
		recorder.Share(listener)
	}()
	source.events <- kmodquery.Event{}
	source.events <- kmodquery.Event{} // once taken, the first was emitted
	require.NoError(t, remote.Sync(t.Context()))
	sink.mu.Lock()
	require.NotEmpty(t, sink.events)
	sink.mu.Unlock()
	require.Equal(t, recorder.Sensors(), remote.Sensors())

	sink.refuse(errors.New("disk full"))
	source.events <- kmodquery.Event{}
	source.events <- kmodquery.Event{}
	require.EqualError(t, remote.Sync(t.Context()), "events wait to be stored: disk full")
	sink.refuse(nil)

	require.NoError(t, listener.Close())
	<-shared
	require.NoError(t, recorder.Close())
	require.NoError(t, remote.Sync(t.Context()))
}

func TestRemoteSaysSoWhenTheRecorderHangsUp(t *testing.T) {
	remote := NewRemote(func(context.Context) (net.Conn, error) {
		ours, theirs := net.Pipe()
		theirs.Close()
		return ours, nil
	}, []string{"s"})
	require.ErrorContains(t, remote.Sync(t.Context()), "hear from the process that records")
	require.Contains(t, remote.Sensors()[0].Reason, "hear from the process that records")
}

// What the recorder knows reaches a reader byte by byte, whatever the host chose
// it to be.
func TestReportKeepsEveryByte(t *testing.T) {
	for _, text := range append(hostile.Texts(), "a\x00b", "") {
		want := report{
			Sensors: []kmodquery.Sensor{filled[kmodquery.Sensor](t, text)},
			Loaded:  []kmodquery.Module{filled[kmodquery.Module](t, text), {Refs: new(int64(0))}},
			Error:   text,
		}
		var b bytes.Buffer
		require.NoError(t, reportEncoding.NewEncoder(&b).Encode(want))
		var got report
		require.NoError(t, reportDecoding.NewDecoder(&b).Decode(&got))
		require.Equal(t, want, got)
	}
}

// filled has something in every field, and text in those that take one.
func filled[T any](t *testing.T, text string) T {
	t.Helper()
	var value T
	fields := reflect.ValueOf(&value).Elem()
	for i := range fields.NumField() {
		switch field := fields.Field(i).Addr().Interface().(type) {
		case *string:
			*field = text
		case *[]string:
			*field = []string{text, text}
		case *int64:
			*field = int64(-1 - i)
		case **int64:
			*field = new(int64(i))
		default:
			t.Fatalf("%s is of no known type", fields.Type().Field(i).Name)
		}
	}
	return value
}

// What answers need not be a recorder.
func FuzzReport(f *testing.F) {
	for _, r := range []report{{}, {Error: "disk full"}, {Loaded: []kmodquery.Module{{Name: "\xff", Refs: new(int64(0)), Views: []string{"modules"}}}}, {Sensors: []kmodquery.Sensor{{Source: "s", Lost: 1}}}} {
		encoded, err := reportEncoding.Marshal(r)
		require.NoError(f, err)
		f.Add(encoded)
	}
	f.Add([]byte(`{"Sensors":null}`))
	f.Fuzz(func(t *testing.T, answer []byte) {
		remote := NewRemote(func(context.Context) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go func() {
				theirs.Write(answer)
				theirs.Close()
			}()
			return ours, nil
		}, []string{"s"})
		remote.Sensors()
		remote.Loaded()
	})
}

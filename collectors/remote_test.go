package collectors

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

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
	require.Equal(t, kmodquery.StateFailed, remote.Sensors(t.Context())[0].State)

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
	require.Equal(t, recorder.Sensors(t.Context()), remote.Sensors(t.Context()))

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

// listen returns a socket's listener, and the Remote of what listens there.
func listen(t *testing.T) (net.Listener, *Remote) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", path)
	require.NoError(t, err)
	t.Cleanup(func() { listener.Close() })
	return listener, NewRemote(func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}, []string{"s"})
}

// A counting source counts its Syncs.
type counting struct {
	scripted
	syncs atomic.Int64
}

func (c *counting) Sync(context.Context) error {
	c.syncs.Add(1)
	return nil
}

func TestRequestGetsWhatItWants(t *testing.T) {
	source := &counting{scripted: scripted{name: "s", events: make(chan kmodquery.Event)}}
	sink := &memory{}
	recorder := NewRecorder(sink, (&reports{}).add, Options{Sources: []Source{source}, SideBySide: true})
	recorder.Start(t.Context())
	listener, remote := listen(t)
	go recorder.Share(listener)
	load := kmodquery.Event{EventName: kmodquery.EventModuleLoad, Source: kmodquery.SourceEBPF, Name: "dummy", LoadID: "1", TimeNanos: 1}
	source.events <- load
	source.events <- kmodquery.Event{} // once taken, the load was emitted

	require.Len(t, remote.Sensors(t.Context()), 1)
	require.Zero(t, source.syncs.Load(), "sensors need no Sync")
	require.NoError(t, remote.Sync(t.Context()))
	require.EqualValues(t, 1, source.syncs.Load())
	loaded, err := remote.Loaded(t.Context())
	require.NoError(t, err)
	require.Equal(t, "dummy", loaded[0].Name)
	require.EqualValues(t, 2, source.syncs.Load(), "loaded modules need one")
	answer, err := remote.exchange(t.Context(), request{Sync: true})
	require.NoError(t, err)
	require.Equal(t, report{}, answer)
	require.NoError(t, recorder.Close())
}

// An unload may wait for a store that refuses events.
func TestLoadedModulesHaveNoViewsWhileTheStoreRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWatch(t, newKernel("dummy"))
		w.advance()
		loaded, err := w.Loaded(t.Context())
		require.NoError(t, err)
		require.Equal(t, []string{kmodquery.ViewEvents}, loaded[0].Views)
		w.sink.refuse(errors.New("disk full"))
		w.sees(kmodquery.EventModuleLoad, "other", "2")
		loaded, err = w.Loaded(t.Context())
		require.NoError(t, err)
		require.Equal(t, []string{"dummy", "other"}, namesOfModules(loaded))
		require.Empty(t, loaded[0].Views)
		w.sink.refuse(nil)
		require.NoError(t, w.Close())
	})
	remote := NewRemote(func(context.Context) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go func() {
			_, _ = readRequest(theirs)
			_ = messageEncoding.NewEncoder(theirs).Encode(report{
				Loaded: []kmodquery.Module{{Name: "dummy", Views: []string{kmodquery.ViewEvents}}}, Error: "disk full", NotStored: true,
			})
		}()
		return ours, nil
	}, nil)
	loaded, err := remote.Loaded(t.Context())
	require.NoError(t, err)
	require.Equal(t, []kmodquery.Module{{Name: "dummy"}}, loaded)
}

// During an upgrade a reader may be of another version than the recorder. Earlier
// versions have no requests.
func TestReaderOfEarlierVersionGetsEverything(t *testing.T) {
	source := &counting{scripted: scripted{name: "s", events: make(chan kmodquery.Event)}}
	recorder := NewRecorder(&memory{}, (&reports{}).add, Options{Sources: []Source{source}, SideBySide: true})
	recorder.Start(t.Context())
	listener, remote := listen(t)
	go recorder.Share(listener)
	conn, err := remote.dial(t.Context())
	require.NoError(t, err)
	defer conn.Close()
	var answer report
	require.NoError(t, messageDecoding.NewDecoder(conn).Decode(&answer))
	require.Len(t, answer.Sensors, 1)
	require.EqualValues(t, 1, source.syncs.Load())
	require.NoError(t, recorder.Close())
}

func TestReaderUnderstandsRecorderOfEarlierVersion(t *testing.T) {
	listener, remote := listen(t)
	want := report{Sensors: []kmodquery.Sensor{{Source: "s"}}, Loaded: []kmodquery.Module{{
		Name: "dummy", Path: strings.Repeat("x", 1<<20),
		Loaded: &kmodquery.LoadedImage{File: &kmodquery.FileID{Device: 1, Inode: 2, Size: 3, Ctime: 4}, ImageSHA256: "i", Signer: new("")},
	}}}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_ = messageEncoding.NewEncoder(conn).Encode(want)
			conn.Close() // with the request unread
		}
	}()
	for range 100 {
		require.Equal(t, want.Sensors, remote.Sensors(t.Context()))
	}
	require.NoError(t, remote.Sync(t.Context()))
	loaded, err := remote.Loaded(t.Context())
	require.NoError(t, err)
	require.Equal(t, want.Loaded, loaded)
}

func TestRecorderReportsRequestsThatItCannotRead(t *testing.T) {
	said := &reports{}
	recorder := NewRecorder(&memory{}, said.add, Options{})
	recorder.Start(t.Context())
	listener, remote := listen(t)
	go recorder.Share(listener)
	for _, text := range []string{"GET / HTTP/1.0\r\n\r\n", strings.Repeat("\x9f", maxRequest)} {
		conn, err := remote.dial(t.Context())
		require.NoError(t, err)
		_, _ = conn.Write([]byte(text)) // fails if the recorder has hung up already
		answer, _ := io.ReadAll(conn)
		require.Empty(t, answer)
		conn.Close()
	}
	said.mu.Lock()
	require.Len(t, said.errs, 2)
	require.Contains(t, said.errs[0], "answer a reader: read its request: ")
	said.mu.Unlock()
	require.NoError(t, recorder.Close())
}

func TestRemoteFailsIfRecorderHangsUp(t *testing.T) {
	remote := NewRemote(func(context.Context) (net.Conn, error) {
		ours, theirs := net.Pipe()
		theirs.Close()
		return ours, nil
	}, []string{"s"})
	require.ErrorContains(t, remote.Sync(t.Context()), "hear from the process that records")
	require.Contains(t, remote.Sensors(t.Context())[0].Reason, "hear from the process that records")
}

func TestRemoteAnswersAtItsDeadlineIfRecorderHangs(t *testing.T) {
	_, remote := listen(t) // and accepts no connection
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, remote.Sync(ctx), kmodquery.ErrNotStored)
	loaded, err := remote.Loaded(ctx)
	require.NoError(t, err)
	require.Empty(t, loaded)
	ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	sensor := remote.Sensors(ctx)[0]
	require.Equal(t, kmodquery.StateFailed, sensor.State)
	require.Equal(t, "hear from the process that records: it has not answered in time; end what holds the store's lock, or restart this process to record", sensor.Reason)
}

// Strings may hold any bytes that the host chose.
func TestReportKeepsEveryByte(t *testing.T) {
	for _, text := range append(hostile.Texts(), "a\x00b", "") {
		want := report{
			Sensors: []kmodquery.Sensor{filled[kmodquery.Sensor](t, text)},
			Loaded:  []kmodquery.Module{filled[kmodquery.Module](t, text), {Refs: new(int64(0))}},
			Error:   text,
		}
		var b bytes.Buffer
		require.NoError(t, messageEncoding.NewEncoder(&b).Encode(want))
		var got report
		require.NoError(t, messageDecoding.NewDecoder(&b).Decode(&got))
		require.Equal(t, want, got)
	}
}

// filled returns a value with something in every field, and text in each string.
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
		case **string:
			*field = new(text)
		case **kmodquery.LoadedImage:
			*field = new(filled[kmodquery.LoadedImage](t, text))
		case **kmodquery.FileID:
			*field = new(filled[kmodquery.FileID](t, text))
		default:
			t.Fatalf("%s is of no known type", fields.Type().Field(i).Name)
		}
	}
	return value
}

// Another program may answer instead of a recorder.
func FuzzReport(f *testing.F) {
	for _, r := range []report{{}, {Error: "disk full"}, {Loaded: []kmodquery.Module{{Name: "\xff", Refs: new(int64(0)), Views: []string{"modules"}}}}, {Sensors: []kmodquery.Sensor{{Source: "s", Lost: 1}}}} {
		encoded, err := messageEncoding.Marshal(r)
		require.NoError(f, err)
		f.Add(encoded)
	}
	f.Add([]byte(`{"Sensors":null}`))
	f.Fuzz(func(t *testing.T, answer []byte) {
		remote := NewRemote(func(context.Context) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go func() {
				_, _ = readRequest(theirs)
				_, _ = theirs.Write(answer)
				theirs.Close()
			}()
			return ours, nil
		}, []string{"s"})
		remote.Sensors(t.Context())
		_, _ = remote.Loaded(t.Context())
	})
}

package collectors

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
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

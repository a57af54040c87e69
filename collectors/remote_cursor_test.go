package collectors

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

// cursorLog are cursors that note their calls.
type cursorLog struct {
	mu    sync.Mutex
	calls []string
	err   error
}

func (c *cursorLog) note(call string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls = append(c.calls, call)
	return c.err
}

func (c *cursorLog) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
}

func (c *cursorLog) Cursor(_ context.Context, name string, q kmodquery.CursorQuery) (kmodquery.Cursor, error) {
	err := c.note(fmt.Sprint("cursor ", name, " ", q.ID, " ", q.Events))
	return kmodquery.Cursor{Name: name, After: 1, Position: 2, Last: 1 << 40, NewRows: 4, NewBytes: 5}, err
}

func (c *cursorLog) Advance(_ context.Context, at kmodquery.Cursor, to int64, rows int) (bool, error) {
	return true, c.note(fmt.Sprint("advance ", at, " ", to, " ", rows))
}

func (c *cursorLog) Registered(asker string) { _ = c.note("registered " + asker) }

func TestReadersMoveTheCursorsOfTheRecorder(t *testing.T) {
	cursors := &cursorLog{}
	recorder := NewRecorder(&memory{}, (&reports{}).add, Options{Cursors: cursors})
	recorder.Start(t.Context())
	listener, remote := listen(t)
	go recorder.Share(listener)
	condition := kmodquery.Condition{Column: "name", Op: kmodquery.Equal, Values: []any{"\xff"}}
	query := kmodquery.NewCursorQuery("kernel_module_events", []kmodquery.Condition{condition}, nil)

	cursor, err := remote.Cursor(t.Context(), "ship", query)
	require.NoError(t, err)
	require.Equal(t, kmodquery.Cursor{Name: "ship", After: 1, Position: 2, Last: 1 << 40, NewRows: 4, NewBytes: 5}, cursor)
	moved, err := remote.Advance(t.Context(), cursor, 3, 1)
	require.NoError(t, err)
	require.True(t, moved)
	require.NoError(t, remote.Registered(t.Context(), "/osquery.em"))
	cursors.mu.Lock()
	calls := slices.Clone(cursors.calls)
	cursors.mu.Unlock()
	require.Equal(t, []string{
		"cursor ship " + query.ID + " " + query.Events,
		fmt.Sprint("advance ", cursor, " 3 1"),
		"registered /osquery.em",
	}, calls)

	cursors.fail(errors.New("there are too many"))
	_, err = remote.Cursor(t.Context(), "ship", query)
	require.EqualError(t, err, "there are too many")
	require.NotErrorIs(t, err, ErrNoRecorder)
	_, err = remote.Advance(t.Context(), cursor, 3, 1)
	require.EqualError(t, err, "there are too many")

	require.NoError(t, listener.Close())
	require.NoError(t, recorder.Close())
	_, err = remote.Cursor(t.Context(), "ship", query)
	require.ErrorIs(t, err, ErrNoRecorder)
}

func TestCursorIsGivenWhileEventsAreNotStored(t *testing.T) {
	cursors, sink := &cursorLog{}, &memory{}
	source := &counting{scripted: scripted{name: "s", events: make(chan kmodquery.Event)}}
	recorder := NewRecorder(sink, (&reports{}).add, Options{Sources: []Source{source}, SideBySide: true, Cursors: cursors})
	recorder.Start(t.Context())
	listener, remote := listen(t)
	go recorder.Share(listener)
	for i, failure := range []error{nil, errors.New("disk full")} {
		sink.refuse(failure)
		source.events <- kmodquery.Event{}
		source.events <- kmodquery.Event{} // once taken, the first was emitted
		cursor, err := remote.Cursor(t.Context(), "ship", kmodquery.CursorQuery{})
		require.NoError(t, err)
		require.Equal(t, "ship", cursor.Name)
		require.EqualValues(t, i+1, source.syncs.Load(), "what happened before is stored first")
	}
	cursors.fail(errors.New("there are too many"))
	_, err := remote.Cursor(t.Context(), "ship", kmodquery.CursorQuery{})
	require.EqualError(t, err, "there are too many")
	sink.refuse(nil)
	require.NoError(t, listener.Close())
	require.NoError(t, recorder.Close())
}

// The Sync takes a part of the reader's time, so that a cursor is returned.
func TestCursorDoesNotWaitForASourceThatHangs(t *testing.T) {
	cursors := &cursorLog{}
	recorder := NewRecorder(&memory{}, (&reports{}).add, Options{Cursors: cursors}) // it never starts
	listener, remote := listen(t)
	go recorder.Share(listener)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	cursor, err := remote.Cursor(ctx, "ship", kmodquery.CursorQuery{})
	require.NoError(t, err)
	require.Equal(t, "ship", cursor.Name)
	require.NoError(t, ctx.Err())
	require.NoError(t, listener.Close())
}

// A recorder of an earlier version ignores what it does not know.
func TestAnEarlierRecorderHasNoCursors(t *testing.T) {
	recorder := NewRecorder(&memory{}, (&reports{}).add, Options{})
	recorder.Start(t.Context())
	listener, remote := listen(t)
	go recorder.Share(listener)
	_, err := remote.Cursor(t.Context(), "ship", kmodquery.CursorQuery{})
	require.ErrorIs(t, err, ErrNoRecorder)
	require.NoError(t, listener.Close())
	require.NoError(t, recorder.Close())
}

// A query may compare with a long list of hashes.
func TestReadersHaveCursorsOfLongQueries(t *testing.T) {
	cursors := &cursorLog{}
	recorder := NewRecorder(&memory{}, (&reports{}).add, Options{Cursors: cursors})
	recorder.Start(t.Context())
	listener, remote := listen(t)
	go recorder.Share(listener)
	hashes := kmodquery.Condition{Column: "sha256", Op: kmodquery.Equal}
	for i := range 5000 {
		hashes.Values = append(hashes.Values, fmt.Sprintf("%064x", i))
	}
	conditions := []kmodquery.Condition{hashes}
	_, err := remote.Cursor(t.Context(), "hashes", kmodquery.NewCursorQuery("kernel_module_events", conditions, conditions))
	require.NoError(t, err)
	require.NoError(t, listener.Close())
	require.NoError(t, recorder.Close())
}

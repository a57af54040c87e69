package lookup

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The context ends a look-up that hangs, and one that waits for it.
func TestLookupEndsWithItsContext(t *testing.T) {
	l := New[int]()
	release := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan bool)
	began := make(chan struct{})
	go func() {
		_, ok := l.Run(ctx, "a", func(context.Context) (none int) {
			close(began)
			<-release
			return none
		})
		first <- ok
	}()
	<-began
	waiting, stop := context.WithCancel(t.Context())
	stop()
	_, ok := l.Run(waiting, "b", nil)
	require.False(t, ok)
	cancel()
	require.False(t, <-first)
	require.Equal(t, 1, l.Running())
	close(release)
}

// A look-up waits for one that its caller has left.
func TestLookupWaitsForAnAbandonedOne(t *testing.T) {
	l := New[int]()
	l.Patience = time.Minute
	release, began := make(chan struct{}), make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-began; cancel() }()
	_, ok := l.Run(ctx, "a", func(context.Context) int { close(began); <-release; return 1 })
	require.False(t, ok)
	_, ok = l.Run(ctx, "a", nil)
	require.False(t, ok)
	time.AfterFunc(time.Millisecond, func() { close(release) })
	found, ok := l.Run(t.Context(), "a", func(context.Context) int { return 2 })
	require.True(t, ok)
	require.Equal(t, 2, found)
	l.Await(t.Context(), "a")
}

// The table's own goroutine recovers from a panic and reports it.
func TestPanicOfALookupIsTheCallers(t *testing.T) {
	l := New[int]()
	require.PanicsWithValue(t, "bug", func() {
		l.Run(t.Context(), "a", func(context.Context) int { panic("bug") })
	})
	_, ok := l.Run(t.Context(), "a", func(context.Context) (none int) { return none })
	require.True(t, ok)
}

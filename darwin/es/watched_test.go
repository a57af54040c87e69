package es

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/darwin/host"
	"github.com/kmodquery/kmodquery/test/standin"
)

// within bounds what a test waits for.
const within = 20 * time.Second

// A watched is a source that runs against a stand-in for eslogger.
type watched struct {
	*Source
	program string
	stop    context.CancelFunc
	ready   chan struct{}
	ended   chan error

	mu   sync.Mutex
	seen []kmodquery.Event
}

// watch runs a source with a stand-in that follows the play.
func watch(t *testing.T, play string, change ...func(*timeouts)) *watched {
	t.Helper()
	program := standin.Install(t, t.TempDir(), "eslogger")
	standin.Direct(t, program, play)
	w := &watched{
		Source:  New(Options{Eslogger: program, Boot: func() host.Boot { return esBoot }}),
		program: program,
	}
	for _, c := range change {
		c(&w.timeouts)
	}
	w.run(t)
	return w
}

func (w *watched) run(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	w.stop, w.ready, w.ended = stop, make(chan struct{}), make(chan error, 1)
	go func() {
		w.ended <- w.Run(ctx, func() { close(w.ready) }, func(d kmodquery.Delivery) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.seen = append(w.seen, d.Event)
		})
	}()
	t.Cleanup(stop)
}

// names returns the names of the emitted events.
func (w *watched) names() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var names []string
	for _, e := range w.seen {
		names = append(names, e.Name)
	}
	return names
}

func (w *watched) awaitReady(t *testing.T) {
	t.Helper()
	select {
	case <-w.ready:
	case err := <-w.ended:
		require.Fail(t, "the source ended", "%v", err)
	case <-time.After(within):
		require.Fail(t, "the source is not ready")
	}
}

// end waits for Run to end.
func (w *watched) end(t *testing.T) error {
	t.Helper()
	select {
	case err := <-w.ended:
		return err
	case <-time.After(within):
		require.Fail(t, "the source does not end")
		return nil
	}
}

// let creates the file that the stand-in awaits.
func (w *watched) let(t *testing.T, name string) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(filepath.Dir(w.program), name), nil, 0o600))
}

// has reports whether the stand-in has created a mark.
func (w *watched) has(name string) bool {
	_, err := os.Stat(filepath.Join(filepath.Dir(w.program), name))
	return err == nil
}

func esRecord(identifier string, number int) string {
	return "print " + standin.EsloggerRecord(identifier, number) + "\n"
}

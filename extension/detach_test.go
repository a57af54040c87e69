package main

import (
	"context"
	"errors"
	"io"
	"log"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/collectors"
	"github.com/kmodquery/kmodquery/collectors/crossview"
	"github.com/kmodquery/kmodquery/tables/sqlite"
)

// A pinned stands for the eBPF source with pinned programs and one event that waits.
type pinned struct {
	lacks error  // why it cannot watch
	asked func() // called by Sync; may be nil
	runs  atomic.Bool
}

func (p *pinned) Name() string { return kmodquery.SourceEBPF }

func (p *pinned) Run(ctx context.Context, ready func(), emit func(kmodquery.Delivery)) error {
	if p.lacks != nil {
		return p.lacks
	}
	p.runs.Store(true)
	emit(kmodquery.Delivery{Event: kmodquery.Event{Time: 1, EventName: kmodquery.EventModuleLoad, Source: kmodquery.SourceEBPF, Name: "waited"}})
	ready()
	<-ctx.Done()
	return nil
}

func (p *pinned) Sync(context.Context) error {
	if p.asked != nil {
		p.asked()
	}
	return nil
}

func (p *pinned) LastRound() time.Time { return time.Time{} }

func (p *pinned) Sensor() kmodquery.Sensor {
	s := kmodquery.Sensor{Source: kmodquery.SourceEBPF, State: kmodquery.StateFailed, Reason: "no rights"}
	if p.runs.Load() {
		s.State, s.Reason, s.Hooks = kmodquery.StateActive, "", `["module_load"]`
	}
	return s
}

// detaching runs detach with a source. It returns the output, the names of the stored
// events and how often the pins were removed.
func detaching(t *testing.T, ctx context.Context, source *pinned, settings ...string) (output string, stored []string, removed int, err error) {
	t.Helper()
	p := hostPlatform()
	p.hasModules = func() bool { return true }
	p.openViews = func() crossview.Views { return nil }
	p.hasPins = func(string) bool { return removed == 0 }
	p.removePins = func(string) error { removed++; return nil }
	p.sourceNames = []string{kmodquery.SourceEBPF, kmodquery.SourceAudit}
	p.openSource = func(name string, _ *config, _ *sqlite.Store) collectors.Source {
		require.Equal(t, kmodquery.SourceEBPF, name)
		return source
	}
	c, err := parse(p, append([]string{"detach", "--state-dir", t.TempDir()}, settings...))
	require.NoError(t, err)
	var out strings.Builder
	err = detach(ctx, c, &out, log.New(&out, "", 0))

	store, openErr := sqlite.Open(t.Context(), c.stateDir, sqlite.Options{})
	require.NoError(t, openErr)
	defer store.Close()
	require.NoError(t, store.Events(t.Context(), kmodquery.Filter{}, func(e *kmodquery.Event) error {
		stored = append(stored, e.Name)
		return nil
	}))
	return out.String(), stored, removed, err
}

func TestDetachStoresWaitingEvents(t *testing.T) {
	for _, settings := range [][]string{nil, {"--sources", "audit"}} {
		output, stored, removed, err := detaching(t, t.Context(), &pinned{}, settings...)
		require.NoError(t, err)
		require.Equal(t, "removed the programs that were pinned in /sys/fs/bpf/kmodquery\n", output)
		require.Equal(t, []string{"waited"}, stored)
		require.Equal(t, 1, removed)
	}
}

func TestDetachReportsEventsThatAreNotStored(t *testing.T) {
	output, stored, removed, err := detaching(t, t.Context(), &pinned{lacks: errors.New("no rights")})
	require.ErrorIs(t, err, errReported)
	require.Contains(t, output, "events that wait in the kernel are not stored: ebpf is failed: no rights\nremoved the programs that were pinned in ")
	require.Empty(t, stored)
	require.Equal(t, 1, removed)
}

// A process that was killed may have left attached programs of an incomplete set.
func TestDetachRemovesAnIncompleteSet(t *testing.T) {
	removed := 0
	p := hostPlatform()
	p.hasPins = func(string) bool { return false }
	p.removePins = func(string) error { removed++; return nil }
	c, err := parse(p, []string{"detach", "--state-dir", t.TempDir()})
	require.NoError(t, err)
	var out strings.Builder
	require.NoError(t, detach(t.Context(), c, &out, log.New(io.Discard, "", 0)))
	require.Equal(t, "nothing is pinned\n", out.String())
	require.Equal(t, 1, removed)

	p.removePins = func(string) error { return errors.New("another process uses them") }
	require.EqualError(t, detach(t.Context(), c, &out, log.New(io.Discard, "", 0)), "another process uses them")
}

func TestDetachThatASignalEndsKeepsThePrograms(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	output, _, removed, err := detaching(t, ctx, &pinned{asked: cancel})
	require.EqualError(t, err, "ended by a signal; the programs stay pinned")
	require.Empty(t, output)
	require.Zero(t, removed)
}

func TestDetachFailsWhileAnotherProcessRecords(t *testing.T) {
	dir := t.TempDir()
	store, err := sqlite.Open(t.Context(), dir, sqlite.Options{})
	require.NoError(t, err)
	defer store.Close()
	_, _, removed, err := detaching(t, t.Context(), &pinned{}, "--state-dir", dir)
	require.ErrorIs(t, err, errRecorded)
	require.Zero(t, removed)

	c, err := parse(hostPlatform(), []string{"detach", "--pin-dir", "none"})
	require.NoError(t, err)
	var out strings.Builder
	require.NoError(t, detach(t.Context(), c, &out, log.New(io.Discard, "", 0)))
	require.Equal(t, "nothing is pinned\n", out.String())
}

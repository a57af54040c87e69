package packs_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

// A line of the configuration ships when it appears and when it is gone, and not because
// others moved it.
func TestAutostartShipsNewAndRemovedLines(t *testing.T) {
	const query = "kernel_module_autostart"
	entry := func(name string, line int64) kmodquery.AutostartEntry {
		return kmodquery.AutostartEntry{Place: kmodquery.PlaceModulesLoad, File: "/etc/modules", Line: line, Text: name, Name: name, Effective: new(int64(1))}
	}
	host := start(t, t.TempDir())
	e := newExtension(t)
	defer e.serve(t, host)()
	require.NoError(t, host.Tick(t.Context(), noon))
	host.Schedule(t.Context(), readPack(t))
	e.places.set(entry("loop", 1))
	require.NoError(t, e.advance(t, host, time.Hour))
	require.Equal(t, []string{"added loop"}, lines(t, host, query, "name"))
	e.places.set(entry("evil", 1), entry("loop", 2))
	require.NoError(t, e.advance(t, host, time.Hour))
	e.places.set(entry("loop", 1))
	require.NoError(t, e.advance(t, host, time.Hour))
	require.Equal(t, []string{"added loop", "added evil", "removed evil"}, lines(t, host, query, "name"))
}

package main

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/tables/sqlite"
)

// The deletion of many expired events does not delay the sources. Later appends delete
// the rest.
func TestExpiryBeforeTheSourcesStartIsBounded(t *testing.T) {
	dir := t.TempDir()
	store, err := sqlite.Open(t.Context(), dir, sqlite.Options{})
	require.NoError(t, err)
	require.NoError(t, store.Append(t.Context(), make([]kmodquery.Delivery, 12_000)))
	require.NoError(t, store.Close())
	store, err = sqlite.Open(t.Context(), dir, sqlite.Options{MaxEvents: 1})
	require.NoError(t, err)
	defer store.Close()
	var reports strings.Builder
	expire(t.Context(), store, time.Nanosecond, newReport(&reports))
	require.Empty(t, reports.String())
	rows := func() int64 {
		n, err := store.Count(t.Context(), kmodquery.Filter{})
		require.NoError(t, err)
		return n
	}
	require.EqualValues(t, 12_000, rows())
	expire(t.Context(), store, 20*time.Millisecond, newReport(&reports)) // too short to delete all
	require.Empty(t, reports.String())
	for rows() > 2 {
		require.NoError(t, store.Append(t.Context(), make([]kmodquery.Delivery, 1)))
	}
	expire(t.Context(), store, time.Minute, newReport(&reports))
	require.EqualValues(t, 1, rows())
	require.Empty(t, reports.String())
}

// A query shows events of any age and leaves them where they are, also if it records.
func TestAQueryDeletesNoEventForItsAge(t *testing.T) {
	dir := t.TempDir()
	store, err := sqlite.Open(t.Context(), dir, sqlite.Options{})
	require.NoError(t, err)
	require.NoError(t, store.Append(t.Context(), []kmodquery.Delivery{{Event: kmodquery.Event{
		Time: time.Now().Add(-time.Hour).Unix(), EventName: kmodquery.EventModuleLoad, Source: kmodquery.SourceEBPF, Name: "old",
	}}}))
	require.NoError(t, store.Close())
	for range 2 {
		status, stdout, stderr := ran(t, "query", "--state-dir", dir, "--retention-age", "1m", "--csv", "SELECT count(*) AS n FROM kernel_module_events WHERE name = 'old'")
		require.Zero(t, status, stderr)
		require.Equal(t, "n\n1\n", stdout)
	}
}

package main

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/tables/sqlite"
)

// The sources do not wait until a store has forgotten all that it has to: what is left
// goes with the events to come.
func TestThatMuchExpiresKeepsNothingFromBeingRecorded(t *testing.T) {
	dir := t.TempDir()
	store, err := sqlite.Open(t.Context(), dir, sqlite.Options{})
	require.NoError(t, err)
	require.NoError(t, store.Append(t.Context(), make([]kmodquery.Delivery, 12_000)))
	require.NoError(t, store.Close())
	store, err = sqlite.Open(t.Context(), dir, sqlite.Options{MaxEvents: 1})
	require.NoError(t, err)
	defer store.Close()
	var said strings.Builder
	expire(t.Context(), store, time.Nanosecond, newReport(&said))
	require.Empty(t, said.String())
	rows := func() int64 {
		n, err := store.Count(t.Context(), kmodquery.Filter{})
		require.NoError(t, err)
		return n
	}
	require.EqualValues(t, 12_000, rows())
	expire(t.Context(), store, 20*time.Millisecond, newReport(&said)) // in the midst of it
	require.Empty(t, said.String())
	for rows() > 2 {
		require.NoError(t, store.Append(t.Context(), make([]kmodquery.Delivery, 1)))
	}
	expire(t.Context(), store, time.Minute, newReport(&said))
	require.EqualValues(t, 1, rows())
	require.Empty(t, said.String())
}

package main

import (
	"bytes"
	"context"
	"io"
	"log"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery/tables/sqlite"
)

// If the lock cannot be checked, the reader reports that once and keeps trying.
func TestAReaderThatCannotCheckTheLock(t *testing.T) {
	c := &config{stateDir: t.TempDir(), interval: 1}
	lock := filepath.Join(c.stateDir, "lock")
	require.NoError(t, os.Symlink("elsewhere", lock))
	var reports bytes.Buffer
	_, ended := inBackground(t, func(ctx context.Context) error {
		awaitUnrecorded(ctx, c, log.New(&reports, "", 0))
		return nil
	})
	select {
	case <-ended:
		require.Fail(t, "the lock could not be checked")
	case <-time.After(3500 * time.Millisecond):
	}
	require.NoError(t, os.Remove(lock))
	require.NoError(t, <-ended)
	require.Equal(t, 1, strings.Count(reports.String(), "\n"), "%s", &reports)
	require.Contains(t, reports.String(), "this process cannot take over: check whether another process records: open "+lock)
}

// The recorder's process and its folder may go together.
func TestAReaderTakesOverWhereNoProcessCreatesTheFolderAgain(t *testing.T) {
	c := &config{stateDir: filepath.Join(t.TempDir(), "state"), interval: 1}
	_, ended := inBackground(t, func(ctx context.Context) error {
		awaitUnrecorded(ctx, c, log.New(io.Discard, "", 0))
		return nil
	})
	require.NoError(t, awaitEnd(t, ended))
	store, err := sqlite.Open(t.Context(), c.stateDir, sqlite.Options{})
	require.NoError(t, err)
	defer store.Close()
	require.True(t, store.IsRecorder())
}

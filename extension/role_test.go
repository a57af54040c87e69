package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery/collectors"
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

// replaceFolder removes the folder of a recorder and returns the store of another one that
// records there. If the first one has created its folder again in between, it tries again.
func replaceFolder(t *testing.T, dir string) *sqlite.Store {
	t.Helper()
	for i := range 100 {
		require.NoError(t, os.Rename(dir, fmt.Sprint(dir, ".removed", i))) // at once: the recorder may be reading
		other, err := sqlite.Open(t.Context(), dir, sqlite.Options{})
		require.NoError(t, err)
		if other.IsRecorder() {
			return other
		}
		require.NoError(t, other.Close())
	}
	t.Fatal("the recorder is always faster")
	return nil
}

// A process that starts before the recorder notices that its folder was removed records, too.
func TestARecorderReadsWhereAnotherProcessRecordsMeanwhile(t *testing.T) {
	m := manage(t, filepath.Join(t.TempDir(), "notify"), 0)
	first, next := newSlowSource(), newSlowSource()
	close(next.release)
	c := slowSettings(t, startHost(t), first)
	sources := []*slowSource{first, next}
	c.platform.openSource = func(string, *config, *sqlite.Store) collectors.Source {
		defer func() { sources = sources[1:] }()
		return sources[0]
	}
	report, lines := reporting()
	stop, ended := inBackground(t, func(ctx context.Context) error { return record(ctx, c, report) })
	awaitClosed(t, first.began)
	other := replaceFolder(t, c.stateDir)
	close(first.release) // emits an event that cannot be stored
	m.until("STATUS=waiting: another process records")
	require.Contains(t, strings.Join(lines.lines(), "\n"), "store the last 1 events: ")
	require.Contains(t, strings.Join(lines.lines(), "\n"), "another process records into the event store since the lock was removed; this one reads it")
	require.NoError(t, other.Close())
	m.until("STATUS=recording")
	stop()
	require.NoError(t, awaitEnd(t, ended))
}

package sqlite

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// A lock file that was removed keeps no other process from recording.
func TestAProcessIsNoRecorderWithoutItsLockFile(t *testing.T) {
	dir := t.TempDir()
	recorder, reader := openIn(t, dir, Options{}), openIn(t, dir, Options{})
	require.True(t, recorder.IsRecorder())
	require.False(t, reader.IsRecorder())

	lock := filepath.Join(dir, lockName)
	require.NoError(t, os.Rename(lock, lock+"ed"))
	require.False(t, recorder.IsRecorder())
	require.NoError(t, os.WriteFile(lock, nil, fileMode))
	require.False(t, recorder.IsRecorder(), "another process may hold the new lock file")
	require.NoError(t, os.Rename(lock+"ed", lock))
	require.True(t, recorder.IsRecorder())
}

// The question whether another process records keeps no batch from being stored.
func TestLookingForAnotherRecorderFailsNoBatch(t *testing.T) {
	s := openStore(t, Options{})
	ctx, stop := context.WithCancel(t.Context())
	var looking sync.WaitGroup
	looking.Go(func() {
		for ctx.Err() == nil {
			if s.IsSuperseded() {
				t.Error("superseded by itself")
			}
		}
	})
	defer looking.Wait()
	defer stop()
	for range 300 {
		require.NoError(t, os.Remove(filepath.Join(filepath.Dir(s.path), lockName)))
		require.NoError(t, s.Check(ctx))
	}
}

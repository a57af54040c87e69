package sqlite

import (
	"os"
	"path/filepath"
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

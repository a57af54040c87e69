package main

import (
	"bytes"
	"context"
	"log"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What keeps a reader from seeing that nobody records any more is said once, and is
// no reason to give up.
func TestAReaderThatCannotSeeTheLock(t *testing.T) {
	c := &config{stateDir: t.TempDir(), interval: 1}
	lock := filepath.Join(c.stateDir, "lock")
	require.NoError(t, os.Symlink("elsewhere", lock))
	var said bytes.Buffer
	_, ended := inBackground(t, func(ctx context.Context) error {
		awaitUnrecorded(ctx, c, log.New(&said, "", 0))
		return nil
	})
	select {
	case <-ended:
		require.Fail(t, "nobody knows whether another process records")
	case <-time.After(3500 * time.Millisecond):
	}
	require.NoError(t, os.Remove(lock))
	require.NoError(t, <-ended)
	require.Equal(t, 1, strings.Count(said.String(), "\n"), "%s", &said)
	require.Contains(t, said.String(), "this process cannot take over: look whether another one records: open "+lock)
}

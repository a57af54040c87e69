//go:build linux

package vm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCachedFillsOnce(t *testing.T) {
	t.Setenv(CacheEnv, t.TempDir())
	var fills atomic.Int32
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			dir, err := cached(t.Context(), "kind", "name", func(dir string) error {
				fills.Add(1)
				return os.WriteFile(filepath.Join(dir, "file"), nil, 0o644)
			})
			if err != nil || !exists(filepath.Join(dir, "file")) {
				t.Errorf("cached folder %s: %v", dir, err)
			}
		})
	}
	wait.Wait()
	require.EqualValues(t, 1, fills.Load())
}

func TestCachedKeepsNothingUnfinished(t *testing.T) {
	t.Setenv(CacheEnv, t.TempDir())
	broken := errors.New("broken")
	_, err := cached(t.Context(), "kind", "name", func(dir string) error {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "half"), nil, 0o644))
		return broken
	})
	require.ErrorIs(t, err, broken)
	dir, err := cached(t.Context(), "kind", "name", func(dir string) error {
		require.NoFileExists(t, filepath.Join(dir, "half"))
		return nil
	})
	require.NoError(t, err)
	require.DirExists(t, dir)
}

func TestLockWaitIsBounded(t *testing.T) {
	t.Setenv(CacheEnv, t.TempDir())
	release, err := lock(t.Context(), "name")
	require.NoError(t, err)
	defer release()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = lock(ctx, "name")
	require.ErrorIs(t, err, context.Canceled)
}

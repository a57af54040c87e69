//go:build linux

package ebpf

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery/bpf"
)

// The losses of a set are counted once, however often its counter is read.
func TestLossesOfPinnedSetsAreCountedOnce(t *testing.T) {
	var l losses
	require.Zero(t, l.since(nil))
	now := losses{1: 5, 2: 0}
	require.EqualValues(t, 5, l.since(now))
	l = now
	require.Zero(t, l.since(now))
	require.EqualValues(t, 3+4+1, l.since(losses{1: 8, 2: 4, 3: 1}))
}

// A process that is told to end does not wait for the kernel to verify the programs.
func TestRunEndsWhileHooksAreAttached(t *testing.T) {
	s := New(Options{})
	begun, end := make(chan struct{}), make(chan struct{})
	s.openPrograms = func(context.Context, Options, bool) (*bpf.Programs, error) {
		close(begun)
		<-end
		return nil, errors.New("too late")
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-begun
		cancel()
	}()
	require.NoError(t, s.Run(ctx, func() { t.Error("nothing is attached") }, nil))
	require.Equal(t, "standby", s.Sensor().State)
	close(end)
}

// Pinned records are not read while the stored keys are unknown.
func TestPinnedRecordsWaitForTheStore(t *testing.T) {
	unread := errors.New("no store")
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "v1_00ff00ff_0000000000000001"), 0o700))
	require.True(t, bpf.HasPins(dir))
	s := New(Options{PinDir: dir, Keys: func(context.Context) ([]string, error) { return nil, unread }})
	require.Equal(t, unread, s.Run(t.Context(), nil, nil))
}

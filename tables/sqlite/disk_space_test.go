//go:build linux

package sqlite

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
)

// smallDisk mounts a file system of 2 MiB. It returns a folder in it and a function that
// remounts it with another size or read-only.
func smallDisk(t *testing.T) (dir string, remount func(flags uintptr, options string)) {
	t.Helper()
	mount := mountAt(t, "tmpfs", "size=2m,mode=0700")
	return filepath.Join(mount, "state"), func(flags uintptr, options string) {
		t.Helper()
		require.NoError(t, unix.Mount("kmodquery", mount, "tmpfs", unix.MS_REMOUNT|flags, options))
	}
}

// mountAt mounts a new file system and returns its folder.
func mountAt(t *testing.T, fstype, options string) string {
	t.Helper()
	mount := t.TempDir()
	if err := unix.Mount("kmodquery", mount, fstype, 0, options); err != nil {
		if os.Getenv("CI") != "" {
			require.NoError(t, err, "mount a %s", fstype)
		}
		t.Skipf("needs the right to mount a %s: %v", fstype, err)
	}
	t.Cleanup(func() { require.NoError(t, unix.Unmount(mount, unix.MNT_DETACH)) })
	return mount
}

// offer appends events like the writer, in smaller batches after a failure. It returns the
// events that could not be stored one by one.
func offer(t *testing.T, s *Store, events []kmodquery.Event) (left []kmodquery.Event, err error) {
	t.Helper()
	for size := 512; len(events) > 0; {
		n := min(size, len(events))
		if err = appendEvents(context.Background(), s, events[:n]); err == nil {
			events, size = events[n:], min(2*size, 512)
			continue
		}
		if n == 1 {
			return events, err
		}
		size = n / 2
	}
	return nil, nil
}

func long(n int) []kmodquery.Event {
	events := make([]kmodquery.Event, n)
	for i := range events {
		events[i] = typical(i)
		events[i].EID = 0
		events[i].Name = fmt.Sprintf("m%d", i)
	}
	return events
}

// The bounds hold on a disk that is too small for the events between two checks of them.
func TestASmallDiskAcceptsAnyNumberOfEvents(t *testing.T) {
	dir, _ := smallDisk(t)
	s := openIn(t, dir, Options{MaxEvents: 100, MaxUnprivileged: 10})
	const n = 4000
	events := long(n)
	left, err := offer(t, s, events)
	require.NoError(t, err)
	require.Empty(t, left)
	require.NoError(t, s.Expire(context.Background()))
	kept := read(t, s, kmodquery.Filter{})
	require.Len(t, kept, 100)
	for i, e := range kept {
		require.Equal(t, fmt.Sprintf("m%d", n-1-i), e.Name)
	}
}

func TestAFullDiskCanBeReadAndIsWrittenWhenSpaceIsFree(t *testing.T) {
	dir, remount := smallDisk(t)
	s := openIn(t, dir, Options{})
	events := long(1500)
	left, err := offer(t, s, events)
	require.ErrorContains(t, err, "store: disk full; make room on the file system of "+dir)
	require.NotContains(t, err.Error(), "\n")
	require.NotEmpty(t, left)
	stored := len(events) - len(left)
	require.Greater(t, stored, 100)
	t.Logf("%d events in 2 MiB", stored)

	look := func(s *Store, want int) {
		t.Helper()
		for range 2 * readers {
			kept := read(t, s, kmodquery.Filter{})
			require.Len(t, kept, want)
			for i, e := range kept {
				require.Equal(t, fmt.Sprintf("m%d", want-1-i), e.Name)
			}
		}
		status, err := s.Status(context.Background())
		require.NoError(t, err)
		require.EqualValues(t, want, status.Rows)
		require.Empty(t, status.Trouble)
	}
	look(s, stored)
	look(openIn(t, dir, Options{}), stored)
	again, err := offer(t, s, left)
	require.Error(t, err)
	require.Len(t, again, len(left), "a full disk accepted events")

	remount(0, "size=64m")
	left, err = offer(t, s, left)
	require.NoError(t, err)
	require.Empty(t, left)
	look(s, len(events))
}

// A file system without a limit reports neither blocks nor free ones.
func TestAFileSystemWithoutALimitIsNotFull(t *testing.T) {
	for name, mount := range map[string][2]string{"ramfs": {"ramfs", "mode=0700"}, "tmpfs": {"tmpfs", "size=0,mode=0700"}} {
		t.Run(name, func(t *testing.T) {
			dir := mountAt(t, mount[0], mount[1])
			s := openIn(t, dir, Options{})
			require.NoError(t, appendEvents(context.Background(), s, long(10)))
			require.Len(t, read(t, s, kmodquery.Filter{}), 10)
		})
	}
}

// A recorder that starts on a full disk stores events when space is free.
func TestARecorderStartsOnAFullDisk(t *testing.T) {
	for name, before := range map[string]int{"with a store": 10, "without": 0} {
		t.Run(name, func(t *testing.T) {
			dir, remount := smallDisk(t)
			require.NoError(t, os.Mkdir(dir, 0o700))
			if before > 0 {
				s, err := Open(context.Background(), dir, Options{})
				require.NoError(t, err)
				require.NoError(t, appendEvents(context.Background(), s, long(before)))
				require.NoError(t, s.Close())
			} else {
				require.NoError(t, os.WriteFile(filepath.Join(dir, lockName), nil, 0o600))
			}
			fill(t, filepath.Join(filepath.Dir(dir), "filler"))

			var said []string
			s := openIn(t, dir, Options{Report: func(err error) { said = append(said, err.Error()) }})
			require.Len(t, said, 1)
			require.Contains(t, said[0], "store: disk full")
			status, err := s.Status(context.Background())
			require.Error(t, err)
			require.NotContains(t, err.Error(), "\n")
			require.Equal(t, kmodquery.RoleRecorder, status.Role)
			require.ErrorContains(t, appendEvents(context.Background(), s, long(1)), "store: disk full")
			_, err = s.Keys(context.Background(), kmodquery.SourceEBPF)
			require.ErrorContains(t, err, "read the deduplication keys of ebpf: ")
			_, err = s.Position(context.Background(), kmodquery.SourceKmsg)
			require.ErrorContains(t, err, "read the position of kmsg: ")
			remount(0, "size=64m")
			require.NoError(t, appendEvents(context.Background(), s, long(3)))
			require.Len(t, read(t, s, kmodquery.Filter{}), before+3)
		})
	}
}

// fill writes a file until the disk is full.
func fill(t *testing.T, path string) {
	t.Helper()
	file, err := os.Create(path)
	require.NoError(t, err)
	for _, size := range []int{1 << 16, 4096, 1} {
		for err = nil; err == nil; {
			_, err = file.Write(make([]byte, size))
		}
	}
	require.ErrorIs(t, err, unix.ENOSPC)
	require.NoError(t, file.Close())
}

func TestAFileSystemThatBecomesReadOnlyIsReported(t *testing.T) {
	dir, remount := smallDisk(t)
	s := openIn(t, dir, Options{})
	require.NoError(t, appendEvents(context.Background(), s, long(10)))
	read(t, s, kmodquery.Filter{})
	// Files open for writing keep a file system from being remounted read-only.
	require.ErrorIs(t, unix.Mount("kmodquery", filepath.Dir(dir), "tmpfs", unix.MS_REMOUNT|unix.MS_RDONLY, "size=2m"), unix.EBUSY)
	require.NoError(t, s.Close())
	remount(unix.MS_RDONLY, "size=2m")
	_, err := Open(context.Background(), dir, Options{})
	require.ErrorContains(t, err, "read-only file system")
	require.NotContains(t, err.Error(), "\n")
	require.Equal(t, 1, strings.Count(err.Error(), "choose another state folder"))
	remount(0, "size=2m")
	require.Len(t, read(t, openIn(t, dir, Options{}), kmodquery.Filter{}), 10)
}

func TestTheReasonOfAWriteErrorNamesTheCause(t *testing.T) {
	dir := t.TempDir()
	for name, test := range map[string]struct {
		err  error
		want string
	}{
		"full":      {unix.ENOSPC, "store: disk full; make room on the file system of " + dir},
		"quota":     {fmt.Errorf("write: %w", unix.EDQUOT), "store: disk quota exceeded; make room in " + dir},
		"read-only": {unix.EROFS, "store: the file system of " + dir + " is read-only; mount it for writing"},
		"broken":    {unix.EIO, "store: input/output error; look at the disk of " + dir},
		"closed":    {unix.EACCES, "store: " + dir + " cannot be written to; run as a user who may"},
		"damaged":   {errDamaged, "store: the database is damaged"},
		"something": {unix.EINVAL, "store: the database cannot be written"},
	} {
		t.Run(name, func(t *testing.T) {
			err := explain(test.err, dir)
			var writeError interface{ Reason() string }
			require.ErrorAs(t, err, &writeError)
			require.Equal(t, test.want, writeError.Reason())
			require.ErrorIs(t, err, test.err)
			require.Equal(t, err, explain(err, dir), "once")
		})
	}
	require.NoError(t, explain(nil, dir))
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, entries, "the probe was not removed")
}

// Once the disk has space, the key that could not be written is.
func TestTheKeyIsWrittenOnceThereIsSpace(t *testing.T) {
	dir, remount := smallDisk(t)
	var said []string
	s := openIn(t, dir, Options{Report: func(err error) { said = append(said, err.Error()) }})
	s.rowKey, s.keyIsKept = nil, false
	require.NoError(t, os.Remove(s.keyPath()))
	fill := filepath.Join(dir, "fill")
	_ = os.WriteFile(fill, make([]byte, 4<<20), fileMode)
	s.keepKey()
	require.Contains(t, s.Loss(), "the key of the event store cannot be kept")
	require.Len(t, said, 1)
	remount(0, "size=8m")
	s.keepKey()
	require.Empty(t, s.Loss())
	require.Len(t, said, 1)
	key, err := os.ReadFile(s.keyPath())
	require.NoError(t, err)
	require.Equal(t, s.rowKey, key)
}

// A short disk takes fewer rows of loads at once, and each load is closed once.
func TestLoadsAreClosedOnAShortDisk(t *testing.T) {
	dir, remount := smallDisk(t)
	remount(0, "size=64m")
	s := openIn(t, dir, Options{})
	require.NoError(t, appendEvents(t.Context(), s, finished(600)))
	require.NoError(t, s.checkpoint(t.Context()))
	size := func(free int64) {
		t.Helper()
		var stat unix.Statfs_t
		require.NoError(t, unix.Statfs(dir, &stat))
		used := int64(stat.Blocks-stat.Bfree) * stat.Bsize
		remount(0, fmt.Sprintf("size=%d", used+free))
	}
	size(reservedBytes)
	closed := func() int {
		t.Helper()
		return len(ofLoads(t, s))
	}
	for range 3 {
		err := s.CloseLoads(t.Context(), time.Now())
		var refusal interface{ Reason() string }
		require.ErrorAs(t, err, &refusal)
		require.Contains(t, refusal.Reason(), "disk full")
		require.Zero(t, closed())
	}
	require.Equal(t, 1, s.loads.batch)
	require.Zero(t, s.failed.Load(), "no events were refused")
	size(1 << 20)
	s.loads.batch = maxClosings
	require.NoError(t, s.CloseLoads(t.Context(), time.Now()))
	require.Equal(t, 600, closed())
	require.Less(t, s.loads.batch, maxClosings)
}

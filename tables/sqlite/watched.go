package sqlite

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// watchedName is a file whose modification time is the last time at which a recorder
// watched. Setting it costs no disk write, and it need not survive a crash of the host.
const watchedName = "watched"

// LastWatched returns the time of the last SetWatched, by this process or an earlier
// one. It is zero if there was none, and in a reader.
func (s *Store) LastWatched() time.Time {
	if !s.records {
		return time.Time{}
	}
	info, err := os.Lstat(s.watchedPath())
	if err != nil || !info.Mode().IsRegular() {
		return time.Time{}
	}
	return info.ModTime()
}

// SetWatched stores a time at which a recorder watches. If it fails, a later gap looks
// longer than it was.
func (s *Store) SetWatched(now time.Time) {
	if !s.records {
		return
	}
	file, err := os.OpenFile(s.watchedPath(), os.O_WRONLY|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return
	}
	defer file.Close()
	_ = os.Chtimes(s.watchedPath(), now, now)
}

// gapName is a file with the beginning and the end of a gap, in nanoseconds of Unix time.
// Like watchedName it need not survive a crash of the host.
const gapName = "gap"

// SetGap stores a time in which nothing watched and for which the kernel's log is still to
// be read. Zero times remove it. If it fails, the next recorder may not read the log.
func (s *Store) SetGap(start, end time.Time) {
	if !s.records {
		return
	}
	if end.IsZero() {
		_ = os.Remove(s.gapPath())
		return
	}
	file, err := os.OpenFile(s.gapPath(), os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return
	}
	defer file.Close()
	fmt.Fprintln(file, start.UnixNano(), end.UnixNano())
}

// Gap returns what SetGap stored last, by this process or an earlier one, or zero times.
func (s *Store) Gap() (start, end time.Time) {
	if !s.records {
		return start, end
	}
	file, err := os.OpenFile(s.gapPath(), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return start, end
	}
	defer file.Close()
	var from, to int64
	if _, err := fmt.Fscan(io.LimitReader(file, 64), &from, &to); err != nil || from > to {
		return start, end
	}
	return time.Unix(0, from), time.Unix(0, to)
}

func (s *Store) gapPath() string { return filepath.Join(filepath.Dir(s.path), gapName) }

func (s *Store) watchedPath() string { return filepath.Join(filepath.Dir(s.path), watchedName) }

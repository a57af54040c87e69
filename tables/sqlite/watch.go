package sqlite

import (
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// watchName is a file whose time of modification is the last sign that a recorder
// watched: it costs no writing to the disk, and need not outlive the kernel.
const watchName = "watched"

// Watched returns when KeepWatch was last called, in this process or an earlier
// one; the zero time where it never was, or where this is a reader.
func (s *Store) Watched() time.Time {
	if !s.records {
		return time.Time{}
	}
	info, err := os.Lstat(s.watchPath())
	if err != nil || !info.Mode().IsRegular() {
		return time.Time{}
	}
	return info.ModTime()
}

// KeepWatch remembers that a recorder watches at this moment. A sign that cannot
// be left makes a gap look longer than it was.
func (s *Store) KeepWatch(now time.Time) {
	if !s.records {
		return
	}
	file, err := os.OpenFile(s.watchPath(), os.O_WRONLY|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return
	}
	defer file.Close()
	_ = os.Chtimes(s.watchPath(), now, now)
}

func (s *Store) watchPath() string { return filepath.Join(filepath.Dir(s.path), watchName) }

package sqlite

import (
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

func (s *Store) watchedPath() string { return filepath.Join(filepath.Dir(s.path), watchedName) }

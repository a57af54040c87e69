package sqlite

import (
	"os"
	"time"
)

// The lock's time of modification is the last sign that a recorder watched: it
// costs no writing to the disk, and need not outlive the kernel. One that is not
// empty has such a time.

// Watched returns when KeepWatch was last called, in this process or an earlier
// one; the zero time where it never was, or where this is a reader.
func (s *Store) Watched() time.Time {
	if s.lock == nil {
		return time.Time{}
	}
	info, err := s.lock.Stat()
	if err != nil || info.Size() == 0 {
		return time.Time{}
	}
	return info.ModTime()
}

// KeepWatch remembers that a recorder watches at this moment.
func (s *Store) KeepWatch(now time.Time) {
	if s.lock != nil && s.lock.Truncate(1) == nil {
		_ = os.Chtimes(s.lock.Name(), now, now) // a sign less makes a gap look longer than it was
	}
}

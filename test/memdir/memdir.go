// Package memdir puts the temporary files of tests on a memory file system. Only tests
// import it.
package memdir

import (
	"os"

	"golang.org/x/sys/unix"
)

const (
	path = "/dev/shm"
	// freeBytes is the space that the tests of a package may need.
	freeBytes = 1 << 30
)

// Use makes [os.TempDir] a memory file system if the host has one with enough space and
// TMPDIR is not set. Tests of the event store sync thousands of batches to disk, which
// takes longer than the rest of their work, and none of them simulates a loss of power.
// Call it at the start of TestMain.
func Use() {
	var stat unix.Statfs_t
	if os.Getenv("TMPDIR") != "" || unix.Statfs(path, &stat) != nil ||
		int64(stat.Bavail)*int64(stat.Bsize) < freeBytes { //nolint:unconvert // of other types on darwin
		return
	}
	if dir, err := os.MkdirTemp(path, "memdir"); err == nil && os.Remove(dir) == nil {
		os.Setenv("TMPDIR", path)
	}
}

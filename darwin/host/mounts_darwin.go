package host

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// RemoteMounts returns the mount points of the file systems that a program or another host
// serves. Such a file system may never answer. The list comes from the kernel, which asks no
// file system for it.
func RemoteMounts() ([]string, error) {
	n, err := unix.Getfsstat(nil, unix.MNT_NOWAIT)
	if err != nil {
		return nil, fmt.Errorf("count the mounts: %w", err)
	}
	mounts := make([]unix.Statfs_t, n+64) // some more may be added meanwhile
	if n, err = unix.Getfsstat(mounts, unix.MNT_NOWAIT); err != nil {
		return nil, fmt.Errorf("list the mounts: %w", err)
	}
	var points []string
	for i := range mounts[:n] {
		m := &mounts[i]
		// FUSE can be mounted with the option local.
		if m.Flags&unix.MNT_LOCAL == 0 || strings.Contains(unix.ByteSliceToString(m.Fstypename[:]), "fuse") {
			points = append(points, unix.ByteSliceToString(m.Mntonname[:]))
		}
	}
	return points, nil
}

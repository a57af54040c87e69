//go:build linux

package ebpf

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/bpf"
	"github.com/kmodquery/kmodquery/linux/module"
)

// A fileReader reads modules' files after the kernel did, one at a time. While a
// file system does not answer, it reads no other file. No call takes longer than
// timeout.
type fileReader struct {
	timeout time.Duration
	isBusy  atomic.Bool // a file is being read
}

// info reads the file that an image came from, if it is still the file that the
// kernel read.
func (r *fileReader) info(j imageJob) imageInfo {
	if j.file == nil || j.file.Path == "" || isRemote(j.file.Filesystem) || r.isBusy.Swap(true) {
		return noImageInfo()
	}
	ctx, cancel := context.WithTimeout(context.Background(), r.timeout)
	defer cancel()
	read := make(chan imageInfo, 1)
	go func() {
		found := fileInfo(ctx, j)
		r.isBusy.Store(false) // before the result, so that the next call finds it
		read <- found
	}()
	select {
	case found := <-read:
		return found
	case <-ctx.Done():
		return noImageInfo()
	}
}

// isRemote reports whether a program or another host serves a file system. It may
// return other bytes than the kernel read, or never answer.
func isRemote(filesystem string) bool {
	remote := []string{"fuse", "virtiofs", "nfs", "cifs", "smb3", "9p", "ceph", "afs"}
	return slices.ContainsFunc(remote, func(prefix string) bool {
		return strings.HasPrefix(filesystem, prefix)
	})
}

// fileInfo looks for the file under the loader's root, and then under this
// process's. It tries a path without its beginning from the root: readIfSame
// compares the file in any case.
func fileInfo(ctx context.Context, j imageJob) imageInfo {
	for _, root := range []string{fmt.Sprintf("/proc/%d/root", j.pid), "/"} {
		path := filepath.Join(root, j.file.Path)
		image, err := readIfSame(ctx, path, j.file)
		if image.SHA256 != "" && !errors.Is(err, errOtherFile) {
			return imageInfoOf(image, err, kmodquery.HashSourceFile)
		}
	}
	return noImageInfo()
}

var errOtherFile = errors.New("not the file that the kernel read, or changed since")

// readIfSame reads a module's file if it is the one that the kernel read, before
// and after.
func readIfSame(ctx context.Context, path string, want *bpf.File) (module.Image, error) {
	// Opening a device or a pipe in the file's place may have an effect or block.
	found, err := os.OpenFile(path, unix.O_PATH, 0)
	if err != nil {
		return module.Image{}, fmt.Errorf("find module: %w", err)
	}
	defer found.Close()
	if err := same(found, want); err != nil {
		return module.Image{}, err
	}
	file, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", found.Fd()))
	if err != nil {
		return module.Image{}, fmt.Errorf("open module: %w", err)
	}
	defer file.Close()
	image, err := module.Read(ctx, file, int64(want.Size))
	if changed := same(file, want); changed != nil {
		return image, changed
	}
	return image, err
}

// same returns errOtherFile unless a file is the one that the kernel read. The
// kernel's device is that of the superblock. On btrfs and some overlays stat(2)
// returns another one, so files there are never the same.
func same(file *os.File, want *bpf.File) error {
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
		return fmt.Errorf("stat module: %w", err)
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFREG || stat.Dev != device(want) || stat.Ino != want.Inode ||
		uint64(stat.Size) != want.Size || stat.Ctim.Sec != want.Ctime || stat.Ctim.Nsec != want.CtimeNanos {
		return errOtherFile
	}
	return nil
}

// device returns a file's device number in stat(2)'s form. The kernel's own has 12
// bits of major and 20 of minor (include/linux/kdev_t.h).
func device(f *bpf.File) uint64 { return unix.Mkdev(f.Device>>20, f.Device&(1<<20-1)) }

//go:build linux

package ebpf

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/bpf"
	"github.com/kmodquery/kmodquery/linux/host"
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
	if j.file == nil || j.file.Path == "" || host.IsRemote(j.file.Filesystem) || r.isBusy.Swap(true) {
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

// fileInfo looks for the file under the loader's root, and then under this
// process's. It tries a path without its beginning from the root: readIfSame
// compares the file in any case.
func fileInfo(ctx context.Context, j imageJob) imageInfo {
	for _, proc := range []string{fmt.Sprintf("/proc/%d", j.pid), "/proc/self"} {
		image, err := readIfSame(ctx, proc, filepath.Join("/", j.file.Path), fileID(j.file))
		if image.SHA256 != "" && !errors.Is(err, host.ErrOtherFile) {
			return imageInfoOf(image, err, kmodquery.HashSourceFile)
		}
	}
	return noImageInfo()
}

// readIfSame reads a module's file if it is the one that the kernel read, before
// and after.
func readIfSame(ctx context.Context, proc, path string, id *kmodquery.FileID) (module.Image, error) {
	file, err := host.OpenFile(proc, path, id)
	if err != nil {
		return module.Image{}, fmt.Errorf("open module: %w", err)
	}
	defer file.Close()
	image, err := module.Read(ctx, file, id.Size)
	if changed := host.CheckFile(file, id); changed != nil {
		return image, changed
	}
	return image, err
}

func fileID(f *bpf.File) *kmodquery.FileID {
	return &kmodquery.FileID{
		Device: int64(device(f)), Inode: int64(f.Inode), Size: int64(f.Size), Ctime: f.Ctime, CtimeNanos: &f.CtimeNanos,
	}
}

// device returns a file's device number in stat(2)'s form. The kernel's own has 12
// bits of major and 20 of minor (include/linux/kdev_t.h).
func device(f *bpf.File) uint64 { return unix.Mkdev(f.Device>>20, f.Device&(1<<20-1)) }

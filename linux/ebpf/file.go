//go:build linux

package ebpf

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/bpf"
	"github.com/kmodquery/kmodquery/linux/module"
)

// A fileReader reads modules' files after the kernel did, one a time. A file
// system that does not answer costs it the files that follow, and nobody any
// time beyond imageTime.
type fileReader struct{ free chan struct{} }

func newFileReader() *fileReader {
	r := &fileReader{free: make(chan struct{}, 1)}
	r.free <- struct{}{}
	return r
}

// info is that of the file that an image came from, as long as it still is
// what the kernel read.
func (r *fileReader) info(w wantedImage) imageInfo {
	if w.file == nil || w.file.Path == "" || isRemote(w.file.Filesystem) {
		return noImageInfo()
	}
	select {
	case <-r.free:
	default:
		return noImageInfo()
	}
	ctx, cancel := context.WithTimeout(context.Background(), imageTime)
	defer cancel()
	read := make(chan imageInfo, 1)
	go func() {
		found := fileInfo(ctx, w)
		r.free <- struct{}{} // before the answer, so that the next file finds it
		read <- found
	}()
	select {
	case found := <-read:
		return found
	case <-ctx.Done():
		return noImageInfo()
	}
}

// isRemote reports whether a program or another host answers for a file system.
// It may show other bytes than the kernel got, or never answer.
func isRemote(filesystem string) bool {
	for _, prefix := range []string{"fuse", "virtiofs", "nfs", "cifs", "smb3", "9p", "ceph", "afs"} {
		if strings.HasPrefix(filesystem, prefix) {
			return true
		}
	}
	return false
}

// fileInfo looks for the file where the loader's namespace has it, and then
// where this process has it. A path that lacks its beginning is tried from the
// root; what is found there must be the same file anyhow.
func fileInfo(ctx context.Context, w wantedImage) imageInfo {
	for _, root := range []string{fmt.Sprintf("/proc/%d/root", w.pid), "/"} {
		path := filepath.Join(root, w.file.Path)
		image, err := readIfSame(ctx, path, w.file)
		if image.SHA256 != "" && !errors.Is(err, errOtherFile) {
			return imageInfoOf(image, err, kmodquery.HashSourceFile)
		}
	}
	return noImageInfo()
}

var errOtherFile = errors.New("it is not the file that the kernel read, or was changed since")

func readIfSame(ctx context.Context, path string, want *bpf.File) (module.Image, error) {
	// To open what is in the file's place may do something, if that is a device, or
	// block.
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

// same compares a file with what the kernel read. The device is that of the
// superblock, which stat(2) does not tell on btrfs and some overlays: there the
// file counts as another one.
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

// device is the number of a file's device as stat(2) forms it. The kernel keeps
// 12 bits of major and 20 of minor (include/linux/kdev_t.h).
func device(f *bpf.File) uint64 { return unix.Mkdev(f.Device>>20, f.Device&(1<<20-1)) }

package ondisk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/linux/module"
)

const (
	// maxFile bounds the file that is hashed, in bytes. The largest modules of
	// distributions have about 10 MB, and 200 MB with debugging information.
	maxFile = 1 << 30
	// fileTime bounds the reading of one file.
	fileTime = 10 * time.Second
)

// read adds the hash and the signer of a file.
func (d *Disk) read(ctx context.Context, file *kmodquery.ModuleFile) {
	image, err := readImage(ctx, filepath.Join(d.root, file.Path))
	if err != nil {
		file.Missing.Add("sha256", "signer")
		return
	}
	file.SHA256 = image.SHA256
	if image.Signature != nil {
		file.Signer = image.Signature.Signer
	}
	if slices.Contains(image.Missing, "signer") {
		file.Missing.Add("signer")
	}
}

var errNoFile = errors.New("not a regular file of a module's size")

// readImage reads a module's file. The file may have been replaced since the module was
// loaded: by a named pipe or a device, whose open could block, or by a link to a file that
// its owner cannot read.
func readImage(ctx context.Context, path string) (module.Image, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return module.Image{}, fmt.Errorf("open module: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return module.Image{}, fmt.Errorf("stat module: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return module.Image{}, fmt.Errorf("read module: %w", errNoFile)
	}
	ctx, cancel := context.WithTimeout(ctx, fileTime)
	defer cancel()
	return module.Read(ctx, file, info.Size())
}

func isLink(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode()&os.ModeSymlink != 0
}

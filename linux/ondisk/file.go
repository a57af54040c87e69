//go:build linux

package ondisk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/linux/host"
	"github.com/kmodquery/kmodquery/linux/module"
)

const (
	// maxFile bounds the file that is hashed, in bytes. The largest modules of
	// distributions have about 10 MB, and 200 MB with debugging information.
	maxFile = 1 << 30
	// fileTime bounds the reading of one file.
	fileTime = 10 * time.Second
)

// read adds the hash and the signer of a file. It reports whether the file has the bytes
// that were loaded, as far as loaded knows them.
func (d *Disk) read(ctx context.Context, file *kmodquery.ModuleFile, loaded *kmodquery.LoadedImage) (isSame bool) {
	image, err := readImage(ctx, filepath.Join(d.root, inUsr(d.root, file.Path)), loaded)
	if err != nil {
		file.Missing.Add("sha256", "signer")
		return false
	}
	file.SHA256 = image.SHA256
	if image.Signature != nil {
		file.Signer = image.Signature.Signer
	}
	if slices.Contains(image.Missing, "signer") {
		file.Missing.Add("signer")
	}
	return loaded != nil
}

var errTooLarge = errors.New("it is larger than a module")

// readImage reads a module's file, which may have been replaced since the module was
// loaded. If loaded is not nil, the file must hold the bytes that were loaded or, if their
// hash is unknown, be the file that was loaded and unchanged.
func readImage(ctx context.Context, path string, loaded *kmodquery.LoadedImage) (module.Image, error) {
	var id *kmodquery.FileID
	var want string
	switch {
	case loaded == nil:
	case !loaded.IsComparable():
		return module.Image{}, host.ErrOtherFile
	case loaded.ImageSHA256 != "":
		want = loaded.ImageSHA256
	default:
		id = loaded.File
	}
	file, err := host.OpenFile("/proc/self", path, id)
	if err != nil {
		return module.Image{}, fmt.Errorf("open module: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return module.Image{}, fmt.Errorf("stat module: %w", err)
	}
	if info.Size() > maxFile {
		return module.Image{}, fmt.Errorf("read module: %w", errTooLarge)
	}
	ctx, cancel := context.WithTimeout(ctx, fileTime)
	defer cancel()
	image, err := module.Read(ctx, file, info.Size())
	switch {
	case err != nil:
		return module.Image{}, err
	case want != "" && image.ImageSHA256 != want:
		return module.Image{}, host.ErrOtherFile
	case id != nil:
		return image, host.CheckFile(file, id)
	}
	return image, nil
}

func isLink(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode()&os.ModeSymlink != 0
}

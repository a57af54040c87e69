package doctor

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// maxFile bounds the files of the host that are read, in bytes.
const maxFile = 1 << 20

// A Root is the folder that has the host's files, "/" except in tests.
type Root string

func (r Root) path(name string) string { return filepath.Join(string(r), name) }

// read returns the beginning of a regular file, or of one of procfs or sysfs.
func (r Root) read(name string) (string, error) {
	// O_NONBLOCK: open(2) of a named pipe would block.
	file, err := os.OpenFile(r.path(name), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return "", errors.Join(err, fmt.Errorf("%s is no regular file", name))
	}
	content, err := io.ReadAll(io.LimitReader(file, maxFile))
	return string(content), err
}

// BinaryName ends the path of the extension. osquery demands the suffix .ext.
const BinaryName = "kmodquery.ext"

// Binary checks what osquery demands of the file of an extension, and that only root and
// the user that runs osquery can replace it.
func (r Root) Binary(path string) []Result {
	info, err := os.Stat(r.path(path))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return one(Critical, path+" does not exist", "install it: install -D -o root -g root -m 0755 build/kmodquery.ext "+path)
	case err != nil:
		return unreadable(err, "")
	case !info.Mode().IsRegular():
		return one(Critical, path+" is no regular file", "install the binary there")
	}
	owner, isKnown := ownerOf(info)
	mode := info.Mode().Perm()
	folder := filepath.Dir(path)
	holder, err := os.Stat(r.path(folder))
	switch {
	case !strings.HasSuffix(path, ".ext"):
		return one(Warning, path+" does not end in .ext, so osquery does not start it", "rename it to "+BinaryName)
	case isKnown && owner != 0 && owner != os.Geteuid():
		return one(Critical, fmt.Sprintf("%s belongs to user %d, who could replace what runs as root", path, owner), "chown root "+path)
	case mode&0o111 == 0:
		return one(Critical, fmt.Sprintf("%s is not executable (mode %04o)", path, mode), "chmod 0755 "+path)
	case mode&0o022 != 0:
		return one(Critical, fmt.Sprintf("%s can be written by others (mode %04o), so osquery does not start it", path, mode), "chmod 0755 "+path)
	case err != nil:
		return unreadable(err, "")
	case holder.Mode()&fs.ModeSticky != 0:
		return one(Critical, folder+" has the sticky bit, so osquery does not start what is in it", "install it in /usr/lib/osquery")
	case holder.Mode().Perm()&0o022 != 0:
		return one(Critical, fmt.Sprintf("%s can be written by others (mode %04o), who could replace the binary", folder, holder.Mode().Perm()), "chmod go-w "+folder)
	}
	if owner, isKnown := ownerOf(holder); isKnown && owner != 0 && owner != os.Geteuid() {
		return one(Critical, fmt.Sprintf("%s belongs to user %d, who could replace the binary", folder, owner), "chown root "+folder)
	}
	if owner != 0 {
		return one(Warning, fmt.Sprintf("%s belongs to user %d; an osquery that runs as root starts only what belongs to root", path, owner), "chown root "+path)
	}
	return one(OK, fmt.Sprintf("%s belongs to root and has mode %04o, and only root can write its folder", path, mode), "")
}

// ownerOf returns the user that owns a file, and false if that is not known.
func ownerOf(info fs.FileInfo) (int, bool) {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return int(stat.Uid), true
}

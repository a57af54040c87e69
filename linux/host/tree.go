//go:build linux

package host

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLinks bounds the links on the way to a file, as the kernel does.
const maxLinks = 40

// A Tree has the files below a root folder. Its methods follow links as a process with that
// root would, and touch no file system that a program or another host serves.
type Tree struct {
	root   string
	mounts []mount
}

// OpenTree returns the tree below a root, which is "/" for this host.
func OpenTree(root string) (*Tree, error) {
	mounts, err := readMounts("/proc/self")
	if err != nil {
		return nil, err
	}
	return &Tree{root: root, mounts: mounts}, nil
}

// Resolve returns a path with its links resolved. The path is below the root, and the file
// need not exist if no link leads to it.
func (t *Tree) Resolve(path string) (string, error) {
	resolved, links := "/", 0
	for rest := strings.Split(path, "/"); len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			resolved = filepath.Dir(resolved)
			continue
		}
		next := filepath.Join(resolved, name)
		if isRemotePath(t.mounts, filepath.Join(t.root, next)) {
			return "", errRemote
		}
		target, err := os.Readlink(filepath.Join(t.root, next))
		switch {
		case errors.Is(err, unix.EINVAL): // it is not a link
			resolved = next
			continue
		case err != nil:
			return "", err
		}
		if links++; links > maxLinks {
			return "", unix.ELOOP
		}
		if filepath.IsAbs(target) {
			resolved = "/"
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return resolved, nil
}

// Open opens a regular file at a resolved path for reading. If something else is there, it
// returns an error and what it is.
func (t *Tree) Open(resolved string) (*os.File, fs.FileInfo, error) {
	found, err := find("/proc/self", filepath.Join(t.root, resolved))
	if err != nil {
		return nil, nil, err
	}
	defer found.Close()
	info, err := found.Stat()
	if err != nil {
		return nil, nil, err
	}
	file, err := reopen(found)
	return file, info, err
}

// Names calls visit with the names in the folder at a resolved path, in no order, until it
// returns false.
func (t *Tree) Names(resolved string, visit func(name string) bool) error {
	found, err := find("/proc/self", filepath.Join(t.root, resolved))
	if err != nil {
		return err
	}
	defer found.Close()
	folder, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", found.Fd()), unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer folder.Close()
	for {
		names, err := folder.Readdirnames(256)
		for _, name := range names {
			if !visit(name) {
				return nil
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

//go:build linux

package vm

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cavaliergopher/cpio"
)

// A tree is the guest's root filesystem before it is packed: absolute guest
// paths in Debian's merged layout (/bin, /sbin and /lib are links into /usr).
type tree struct {
	entries map[string]entry
}

// An entry has exactly one of its fields set; the zero entry is a folder.
type entry struct {
	source string // a file of the host
	data   []byte
	target string // of a symbolic link
}

func newTree() *tree {
	t := &tree{entries: map[string]entry{}}
	for _, name := range []string{"bin", "sbin", "lib", "lib64"} {
		t.dir("/usr/" + name)
		t.entries["/"+name] = entry{target: "usr/" + name}
	}
	for _, name := range []string{"/dev", "/etc", "/proc", "/root", "/run", "/sys", "/tmp"} {
		t.dir(name)
	}
	return t
}

func mergedUsr(name string) string {
	name = path.Clean("/" + name)
	for _, dir := range []string{"/bin/", "/sbin/", "/lib/", "/lib64/"} {
		if strings.HasPrefix(name, dir) {
			return "/usr" + name
		}
	}
	return name
}

func (t *tree) add(name string, e entry) {
	name = mergedUsr(name)
	t.dir(path.Dir(name))
	t.entries[name] = e
}

func (t *tree) dir(name string) {
	for ; name != "/"; name = path.Dir(name) {
		t.entries[name] = entry{}
	}
}

func (t *tree) file(name, source string)      { t.add(name, entry{source: source}) }
func (t *tree) link(name, target string)      { t.add(name, entry{target: target}) }
func (t *tree) data(name string, data []byte) { t.add(name, entry{data: data}) }

// copy adds a file of the host, or a folder with its content, at the guest path.
func (t *tree) copy(name, source string) error {
	err := filepath.WalkDir(source, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		below, err := filepath.Rel(source, file)
		if err != nil {
			return err
		}
		if d.IsDir() {
			t.dir(mergedUsr(path.Join(name, below)))
			return nil
		}
		t.file(path.Join(name, below), file)
		return nil
	})
	if err != nil {
		return fmt.Errorf("put %s into the guest: %w", source, err)
	}
	return nil
}

// pack writes the tree as an uncompressed newc archive. An emulated processor takes
// longer to unpack a compressed archive than to read a bigger one.
func (t *tree) pack(w io.Writer) error {
	archive := cpio.NewWriter(w)
	for _, name := range slices.Sorted(maps.Keys(t.entries)) {
		if err := packEntry(archive, strings.TrimPrefix(name, "/"), t.entries[name]); err != nil {
			return fmt.Errorf("pack %s into the initramfs: %w", name, err)
		}
	}
	if err := archive.Close(); err != nil {
		return fmt.Errorf("pack the initramfs: %w", err)
	}
	return nil
}

// write adds the tree's files and links to the ext4 filesystem in an image. A folder that
// exists stays as it is, and a file replaces the former one.
func (t *tree) write(ctx context.Context, image string) error {
	scratch, err := os.MkdirTemp("", "kmodquery-tree-")
	if err != nil {
		return fmt.Errorf("make a folder for files: %w", err)
	}
	defer os.RemoveAll(scratch)
	var commands strings.Builder
	for i, name := range slices.Sorted(maps.Keys(t.entries)) {
		e := t.entries[name]
		switch {
		case e.target != "":
			continue // of the merged layout, which Debian has
		case e.data != nil:
			e.source = filepath.Join(scratch, strconv.Itoa(i))
			if err := os.WriteFile(e.source, e.data, 0o644); err != nil {
				return fmt.Errorf("write %s: %w", name, err)
			}
			fallthrough
		case e.source != "":
			fmt.Fprintf(&commands, "rm %s\nwrite %s %s\n", name, e.source, name)
		default:
			fmt.Fprintf(&commands, "mkdir %s\n", name)
		}
	}
	script := filepath.Join(scratch, "script")
	if err := os.WriteFile(script, []byte(commands.String()), 0o644); err != nil {
		return fmt.Errorf("write the script of debugfs: %w", err)
	}
	_, err = run(ctx, "", "debugfs", "-w", "-f", script, image)
	return err
}

func packEntry(archive *cpio.Writer, name string, e entry) error {
	switch {
	case e.source != "":
		return packFile(archive, name, e.source)
	case e.target != "":
		return packData(archive, &cpio.Header{Name: name, Mode: cpio.TypeSymlink | 0o777}, []byte(e.target))
	case e.data != nil:
		return packData(archive, &cpio.Header{Name: name, Mode: cpio.TypeReg | 0o644}, e.data)
	default:
		return archive.WriteHeader(&cpio.Header{Name: name, Mode: cpio.TypeDir | 0o755, Links: 2})
	}
}

func packData(archive *cpio.Writer, header *cpio.Header, data []byte) error {
	header.Size = int64(len(data))
	header.Links = 1
	if err := archive.WriteHeader(header); err != nil {
		return err
	}
	_, err := io.Copy(archive, bytes.NewReader(data))
	return err
}

// packFile follows symbolic links: it packs the file that they lead to.
func packFile(archive *cpio.Writer, name, source string) error {
	file, err := os.Open(source)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if err := archive.WriteHeader(&cpio.Header{
		Name:    name,
		Mode:    cpio.TypeReg | cpio.FileMode(info.Mode().Perm()),
		Size:    info.Size(),
		Links:   1,
		ModTime: info.ModTime(),
	}); err != nil {
		return err
	}
	_, err = io.Copy(archive, file)
	return err
}

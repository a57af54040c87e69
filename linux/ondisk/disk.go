//go:build linux

package ondisk

import (
	"cmp"
	"context"
	"path/filepath"
	"strings"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/internal/lookup"
)

// A Disk is the file system of a host that runs a kernel release. It may be used
// concurrently.
type Disk struct {
	root    string
	release string
	files   cache // paths in modules.dep, which depmod(8) writes, by module
	owners  []owner
	lookups *lookup.Runner[kmodquery.ModuleFile]
}

// An owner returns the package that a file belongs to, or "" if none of its packages has
// the file.
type owner interface {
	owner(ctx context.Context, path string) (string, error)
}

// New returns the disk below root, which is "/" for this host. release is the running
// kernel's release, as uname -r prints it.
func New(root, release string) *Disk {
	return &Disk{
		root: root, release: release, owners: []owner{newDpkg(root), newPacman(root), newRPM(root)}, lookups: lookup.New[kmodquery.ModuleFile](),
	}
}

// File returns the file of a loaded module: the file from which it was loaded if that is
// known, otherwise the file that modprobe would load now for its name. It returns when
// the file is known, the file systems do not answer in time, or ctx ends.
func (d *Disk) File(ctx context.Context, m kmodquery.Module) kmodquery.ModuleFile {
	file, ok := d.lookups.Run(ctx, cmp.Or(m.Path, m.Name), func(ctx context.Context) kmodquery.ModuleFile { return d.lookUp(ctx, m) })
	if !ok {
		file = unknownFile(m)
	}
	if m.Loaded != nil && m.Loaded.Signer != nil {
		file.Signer = *m.Loaded.Signer
		file.Missing.Remove("signer")
	}
	return file
}

// FileAt returns the file at a path, whatever was loaded from it. It returns when File does.
func (d *Disk) FileAt(ctx context.Context, path string) kmodquery.ModuleFile {
	file, ok := d.lookups.Run(ctx, path, func(ctx context.Context) kmodquery.ModuleFile {
		file := kmodquery.ModuleFile{Path: path}
		d.read(ctx, &file, nil)
		d.own(ctx, &file)
		return file
	})
	if !ok {
		return unknownFile(kmodquery.Module{Path: path})
	}
	return file
}

// Package returns the package that owns a file in one of the places of package autostart, or
// "" if there is none. It reports false if that is unknown, and returns when File does.
func (d *Disk) Package(ctx context.Context, path string) (name string, isKnown bool) {
	file, ok := d.lookups.Run(ctx, "package of "+path, func(ctx context.Context) kmodquery.ModuleFile {
		file := kmodquery.ModuleFile{Path: path}
		d.own(ctx, &file)
		return file
	})
	return file.Package, ok && !file.Missing.Has("package")
}

// unknownFile returns the file of a module of which only the path may be known.
func unknownFile(m kmodquery.Module) kmodquery.ModuleFile {
	file := kmodquery.ModuleFile{Path: m.Path}
	if !filepath.IsAbs(m.Path) { // the event lacks the beginning of the path
		file.Missing.Add("path")
	}
	file.Missing.Add("sha256", "signer", "package")
	return file
}

// lookUp does what File does. It may block.
func (d *Disk) lookUp(ctx context.Context, m kmodquery.Module) kmodquery.ModuleFile {
	file := kmodquery.ModuleFile{Path: m.Path}
	switch {
	case m.Path == "":
		file.Path = d.find(m.Name)
	case !filepath.IsAbs(m.Path): // tried from the root, and compared
		file.Path = "/" + m.Path
	}
	if file.Path == "" {
		return unknownFile(m)
	}
	if isSame := d.read(ctx, &file, m.Loaded); !isSame && (m.Path != "" || m.Loaded != nil) {
		return unknownFile(m)
	}
	d.own(ctx, &file)
	return file
}

// own adds the package that owns a file.
func (d *Disk) own(ctx context.Context, file *kmodquery.ModuleFile) {
	failed := false
	path := inUsr(d.root, file.Path) // an event may have the path without /usr
	for _, packages := range d.owners {
		name, err := packages.owner(ctx, path)
		if name != "" {
			file.Package = name
			return
		}
		failed = failed || err != nil
	}
	if failed {
		file.Missing.Add("package")
	}
}

// inUsr returns a path in /lib as one in /usr/lib if /lib is a link into /usr, as on most
// hosts. The lists of packages may still have the path in /lib.
func inUsr(root, path string) string {
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	switch first {
	case "lib", "lib32", "lib64", "libx32":
		if isLink(filepath.Join(root, first)) {
			return "/usr" + path
		}
	}
	return path
}

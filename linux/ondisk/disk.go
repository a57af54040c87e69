package ondisk

import (
	"context"
	"path/filepath"
	"strings"
	"sync"

	"github.com/kmodquery/kmodquery"
)

// Columns that [kmodquery.ModuleFile.Missing] can name.
const (
	columnPath    = "path"
	columnSHA256  = "sha256"
	columnSigner  = "signer"
	columnPackage = "package"
)

// A Disk is a host's file system and the kernel release that runs on it. It may
// be used concurrently.
type Disk struct {
	root    string
	release string
	owners  []owner

	mu    sync.Mutex
	files index // of modules.dep
}

// An owner knows which package a file belongs to. It answers "" where none of
// its packages has the file.
type owner interface {
	owner(ctx context.Context, path string) (string, error)
}

// New returns the disk below root, which is "/" for this host's own. release is
// the running kernel's, as uname -r prints it.
func New(root, release string) *Disk {
	return &Disk{root: root, release: release, owners: []owner{newDpkg(root), newPacman(root), newRPM(root)}}
}

// File tells the file of a loaded module: the one it was read from, where that
// is known, else the one that modprobe would read for its name now.
func (d *Disk) File(ctx context.Context, m kmodquery.Module) kmodquery.ModuleFile {
	var file kmodquery.ModuleFile
	file.Path = m.Path
	if file.Path == "" {
		file.Path = d.find(m.Name)
	}
	if file.Path == "" {
		file.Missing.Add(columnPath, columnSHA256, columnSigner, columnPackage)
		return file
	}
	if !filepath.IsAbs(file.Path) {
		// The path names no file: the module came from a memfd, or the event lacks
		// the beginning of the path.
		file.Missing.Add(columnSHA256, columnSigner, columnPackage)
		return file
	}
	d.read(ctx, &file)
	d.own(ctx, &file)
	return file
}

// own names the package that owns a file.
func (d *Disk) own(ctx context.Context, file *kmodquery.ModuleFile) {
	failed := false
	path := inUsr(d.root, file.Path) // a source may have seen it by its older name
	for _, packages := range d.owners {
		name, err := packages.owner(ctx, path)
		if name != "" {
			file.Package = name
			return
		}
		failed = failed || err != nil
	}
	if failed {
		file.Missing.Add(columnPackage)
	}
}

// below is where a path of the disk is for this process.
func below(root, path string) string { return filepath.Join(root, path) }

// inUsr is a path in the form that it has where /lib is a link into /usr, as it
// is on most hosts; packages keep the older form.
func inUsr(root, path string) string {
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	switch first {
	case "lib", "lib32", "lib64", "libx32":
		if isLink(below(root, "/"+first)) {
			return "/usr" + path
		}
	}
	return path
}

//go:build linux

package ondisk

import (
	"bytes"
	"io"
	"path/filepath"
	"strings"

	"github.com/kmodquery/kmodquery/linux/host"
)

// maxIndex bounds the modules in an index, and maxIndexSize the bytes of their paths and
// packages. A distribution's kernel has several thousand modules, and several kernels may
// be installed.
const (
	maxIndex     = 1 << 17
	maxIndexSize = 32 << 20
)

// An index is what was read of a file or a folder, within bounds.
type index struct {
	values map[string]string
	size   int // bytes of values
}

func newIndex() *index { return &index{values: map[string]string{}} }

// add sets a value. It reports false, and sets nothing, if there is no room.
func (i *index) add(key, value string) bool {
	i.size += len(key) + len(value)
	if len(i.values) >= maxIndex || i.size > maxIndexSize {
		return false
	}
	i.values[key] = value
	return true
}

// find returns the path of the file from which modprobe would load the module now, with
// links to the folder of modules resolved. It returns "" if modules.dep does not list the
// module.
func (d *Disk) find(name string) string {
	folder := "/lib/modules/" + d.release
	dep := filepath.Join(d.root, folder, "modules.dep")
	paths, err := d.files.get(dep, func() (map[string]string, error) {
		file, err := host.OpenRegular(dep)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		return parseModulesDep(file), nil
	})
	path := paths[moduleName(name)]
	if err != nil || path == "" {
		return ""
	}
	if target, err := filepath.EvalSymlinks(filepath.Join(d.root, folder)); err == nil {
		folder = filepath.Join("/", strings.TrimPrefix(target, d.root))
	}
	if !filepath.IsAbs(path) { // paths in the release's folder are relative
		path = folder + "/" + path
	}
	return inUsr(d.root, path)
}

// parseModulesDep parses modules.dep. A line has the path of a module's file, a colon, and
// the files that the module depends on. If two files have the name of one module, depmod
// writes only the one that it prefers.
func parseModulesDep(r io.Reader) map[string]string {
	paths := newIndex()
	lines := newLines(r)
	for lines.Scan() {
		path, _, found := bytes.Cut(lines.Bytes(), []byte{':'})
		name, isModule := fileName(string(path))
		if !found || !isModule {
			continue
		}
		if _, ok := paths.values[name]; !ok && !paths.add(name, string(path)) {
			break
		}
	}
	return paths.values
}

// fileName returns the name of the module in a file, by the file's name. isModule is false
// if the file's name is not that of a module.
func fileName(path string) (name string, isModule bool) {
	base := path[strings.LastIndexByte(path, '/')+1:]
	for _, compressed := range []string{".xz", ".zst", ".gz"} {
		if rest, ok := strings.CutSuffix(base, compressed); ok {
			base = rest
			break
		}
	}
	base, isModule = strings.CutSuffix(base, ".ko")
	return moduleName(base), isModule && base != ""
}

// moduleName returns the kernel's spelling of a module's name. Names of files may have
// dashes, which the kernel replaces.
func moduleName(name string) string { return strings.ReplaceAll(name, "-", "_") }

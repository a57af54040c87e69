package ondisk

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// maxIndex bounds the modules that are remembered. A distribution's kernel has
// some thousands, and some of them may be installed.
const maxIndex = 1 << 17

// An index says where depmod(8) found the file of each module.
type index struct {
	changed time.Time // of the file that it was read from
	paths   map[string]string
}

// find returns the path of the file that modprobe would load a module from now,
// without links, or "" where depmod knows none.
func (d *Disk) find(name string) string {
	folder := "/lib/modules/" + d.release
	dep := below(d.root, folder+"/modules.dep")
	info, err := os.Stat(dep)
	if err != nil || name == "" {
		return ""
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.files.paths == nil || !d.files.changed.Equal(info.ModTime()) {
		file, err := os.Open(dep)
		if err != nil {
			return ""
		}
		defer file.Close()
		d.files = index{changed: info.ModTime(), paths: parseModulesDep(file)}
	}
	path, ok := d.files.paths[moduleName(name)]
	if !ok {
		return ""
	}
	if !filepath.IsAbs(path) { // as those of this release's folder are
		path = folder + "/" + path
	}
	return inUsr(d.root, path)
}

// parseModulesDep reads modules.dep: the path of a module's file, a colon, and
// what it depends on. Where two files have the name of one module, depmod has
// chosen already and writes one.
func parseModulesDep(r io.Reader) map[string]string {
	paths := map[string]string{}
	lines := newLines(r)
	for lines.Scan() && len(paths) < maxIndex {
		path, _, found := strings.Cut(lines.Text(), ":")
		name, isModule := fileName(path)
		if !found || !isModule {
			continue
		}
		if _, ok := paths[name]; !ok {
			paths[name] = path
		}
	}
	return paths
}

// fileName is the name of the module that a file holds by its own name, and
// whether it is one's at all.
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

// moduleName is how the kernel spells a name: files may have dashes.
func moduleName(name string) string { return strings.ReplaceAll(name, "-", "_") }

//go:build linux

package vm

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// moduleFiles returns the files of the named modules and of their dependencies,
// relative to the image's modules folder. A module that is built into the kernel has no
// file.
func (i *Image) moduleFiles(names []string) ([]string, error) {
	depends, err := readModulesDep(filepath.Join(i.Modules, "modules.dep"))
	if err != nil {
		return nil, err
	}
	builtin, err := os.ReadFile(filepath.Join(i.Modules, "modules.builtin"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the built-in modules: %w", err)
	}
	known := map[string]bool{}
	for line := range strings.Lines(string(builtin)) {
		known[moduleName(strings.TrimSpace(line))] = true
	}
	byName := map[string]string{}
	for file := range depends {
		byName[moduleName(file)] = file
	}
	var files []string
	taken := map[string]bool{}
	for _, name := range names {
		file, ok := byName[moduleName(name)]
		if !ok && known[moduleName(name)] {
			continue
		}
		if !ok {
			return nil, fmt.Errorf("kernel %s has no module %s", i.Release, name)
		}
		for _, f := range append([]string{file}, depends[file]...) {
			if !taken[f] {
				taken[f] = true
				files = append(files, f)
			}
		}
	}
	return files, nil
}

// moduleName returns the name that lsmod shows for a module's file.
func moduleName(file string) string {
	name := strings.TrimSuffix(strings.TrimSuffix(path.Base(file), ".xz"), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// readModulesDep reads depmod's text index. Each line has a file, a colon, and all
// files that it needs directly or indirectly.
func readModulesDep(name string) (map[string][]string, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read module dependencies: %w", err)
	}
	defer file.Close()
	depends := map[string][]string{}
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		module, needs, ok := strings.Cut(lines.Text(), ":")
		if !ok {
			return nil, fmt.Errorf("read module dependencies: no colon in %q of %s", lines.Text(), name)
		}
		depends[module] = strings.Fields(needs)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read module dependencies: %w", err)
	}
	return depends, nil
}

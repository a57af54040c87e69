//go:build linux

package autostart

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
)

// A target is a module that a name stands for.
type target struct {
	name      string
	path      string // of its file, or ""
	isBuiltin bool
}

// modules are the modules that kmod finds for a kernel release: what depmod wrote, and the
// aliases and commands of modprobe.d.
type modules struct {
	folder  string // resolved
	dep     index
	alias   index
	symbols index
	builtin index
	// builtinAlias has the aliases of modules that are built in.
	builtinAlias index
	err          error // why some of it is unknown
	depErr       error // why dep is unknown, or known in part
}

// readModules reads the indices of a kernel release.
func (r *reading) readModules() *modules {
	m, room := &modules{}, maxKeys
	folder, err := r.tree.Resolve("/lib/modules/" + r.release)
	if err != nil {
		m.err = fmt.Errorf("cannot read /lib/modules/%s: %s", r.release, reason(err))
		return m
	}
	m.folder = folder
	for _, file := range []struct {
		name string
		to   *index
	}{
		{"modules.builtin.alias.bin", &m.builtinAlias}, {"modules.builtin.bin", &m.builtin}, {"modules.symbols.bin", &m.symbols},
		{"modules.alias.bin", &m.alias}, {"modules.dep.bin", &m.dep},
	} {
		*file.to, err = r.readIndex(folder+"/"+file.name, &room)
		if err != nil && (!errors.Is(err, fs.ErrNotExist) || file.to == &m.dep) {
			m.err = fmt.Errorf("cannot read %s/%s: %s", folder, file.name, reason(err))
		}
	}
	if err != nil { // of modules.dep.bin, the last one
		m.depErr = fmt.Errorf("cannot read %s/modules.dep.bin: %w", folder, err)
	}
	return m
}

// readIndex reads an index that depmod wrote, of which room bytes at most are kept. It reduces
// room.
func (r *reading) readIndex(at string, room *int) (index, error) {
	resolved, err := r.tree.Resolve(at)
	if err != nil {
		return nil, err
	}
	file, info, err := r.tree.Open(resolved)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if info.Size() > maxIndex {
		return nil, errCut
	}
	data, err := io.ReadAll(io.LimitReader(file, maxIndex))
	if err != nil {
		return nil, err
	}
	return parseIndex(data, room)
}

// find returns the module of a normalized name. Its path is "" if kmod knows no file for it.
func (m *modules) find(name string) target {
	found := target{name: name}
	if values := m.dep[name]; len(values) > 0 {
		file, _, _ := strings.Cut(values[0], ":")
		if found.path = file; !path.IsAbs(file) {
			found.path = path.Join(m.folder, file)
		}
		return found
	}
	found.isBuiltin = len(m.builtin[name]) > 0
	return found
}

// resolve returns the modules that kmod looks up for a name or an alias, in kmod's order: an
// alias of modprobe.d, a module, a command of modprobe.d, an alias that a module has, a
// module that is built in.
func (c *config) resolve(requested string) []target {
	name, ok := normalize(requested)
	if !ok || len(name) >= maxText { // kmod accepts no longer one
		return nil
	}
	var found []target
	for i, a := range c.aliases {
		if i%64 == 0 && c.isLate() {
			return nil
		}
		if fnmatch(a.subject, name) {
			found = append(found, c.modules.find(a.rest))
		}
	}
	if len(found) > 0 {
		return found
	}
	if len(c.modules.dep[name]) > 0 && !strings.Contains(name, ":") {
		return []target{c.modules.find(name)}
	}
	if symbol := c.modules.symbols[name]; strings.HasPrefix(name, "symbol:") && len(symbol) > 0 {
		return []target{c.modules.find(symbol[0])}
	}
	for _, commands := range [][]*line{c.installs, c.removes} {
		for _, command := range commands {
			if command.subject == name {
				return []target{c.modules.find(name)}
			}
		}
	}
	for _, name := range c.modules.alias.match(name, c.isLate) {
		found = append(found, c.modules.find(name))
	}
	if len(found) > 0 {
		return found
	}
	if len(c.modules.builtin[name]) > 0 {
		return []target{{name: name, isBuiltin: true}}
	}
	for _, name := range c.modules.builtinAlias.match(name, c.isLate) {
		found = append(found, target{name: name, isBuiltin: true})
	}
	return found
}

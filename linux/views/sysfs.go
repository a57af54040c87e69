package views

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/kmodquery/kmodquery"
)

// maxAttribute bounds what is read of a file in sysfs, which writes one page.
const maxAttribute = 4096

// inSysfs lists the modules that have a folder in /sys/module, by the folder's
// names.
func (v *Views) inSysfs() ([]string, error) {
	folders, err := v.folders()
	return slices.DeleteFunc(folders, func(name string) bool { return !isLoaded(v.folder(name)) }), err
}

// folders are the names in /sys/module.
func (v *Views) folders() ([]string, error) {
	dir, err := os.Open(v.path(sysModule))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(maxNames)
	if errors.Is(err, io.EOF) { // there is none
		err = nil
	}
	return names, err
}

// ofModules are what the folder of a module has, whatever the kernel's options.
// What is built into the kernel has a folder too, for its parameters and its
// version, but none of these. One is enough: a module may remove others.
var ofModules = []string{"initstate", "coresize", "holders"}

func isLoaded(folder string) bool {
	for _, name := range ofModules {
		if _, err := os.Lstat(filepath.Join(folder, name)); err == nil {
			return true
		}
	}
	return false
}

// sysfsName is what a folder of sysfs is called that should be called name.
func sysfsName(name string) string { return strings.ReplaceAll(name, "/", "!") }

// states are the words of initstate and those of /proc/modules.
var states = map[string]string{"live": "Live", "coming": "Loading", "going": "Unloading"}

// describe adds what sysfs says of a module and m does not.
func (v *Views) describe(m *kmodquery.Module) {
	folder := v.folder(m.Name)
	if m.Version == "" {
		m.Version = attribute(folder, "version")
	}
	if m.Srcversion == "" {
		m.Srcversion = attribute(folder, "srcversion")
	}
	if m.State == "" {
		m.State = states[attribute(folder, "initstate")]
	}
	if m.Size == nil {
		m.Size = number(attribute(folder, "coresize"))
	}
	if m.Refs == nil {
		m.Refs = number(attribute(folder, "refcnt"))
	}
	if m.Taints == nil {
		if letters, err := readAttribute(filepath.Join(folder, "taint")); err == nil {
			m.Taints = new(taintMask(letters))
		}
	}
	if m.Address == nil {
		if text := hexNumber(attribute(folder, "sections/.text")); text != 0 {
			m.Address = new(int64(text))
		}
	}
	if m.UsedBy == nil {
		holders, err := os.ReadDir(filepath.Join(folder, "holders"))
		for _, holder := range holders {
			if err == nil {
				m.UsedBy = append(m.UsedBy, holder.Name())
			}
		}
	}
}

// sections hands the addresses at which a module's sections lie to visit, but
// for those that its init alone needed, whose memory may be another's by now. It
// reports whether there was any.
func (v *Views) sections(name string, visit func(address uint64)) bool {
	folder := filepath.Join(v.folder(name), "sections")
	entries, err := os.ReadDir(folder)
	if err != nil {
		return false
	}
	found := false
	for _, entry := range entries {
		if name := entry.Name(); strings.HasPrefix(name, ".init") || name == ".symtab" || name == ".strtab" {
			continue
		}
		if address := hexNumber(attribute(folder, entry.Name())); address != 0 {
			visit(address)
			found = true
		}
	}
	return found
}

// attribute is the text of a file in sysfs, or "".
func attribute(folder, name string) string {
	text, err := readAttribute(filepath.Join(folder, name))
	if err != nil {
		return ""
	}
	return text
}

func readAttribute(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	buffer := make([]byte, maxAttribute)
	n, err := file.Read(buffer)
	if n == 0 && err != nil {
		return "", err
	}
	return strings.TrimSuffix(string(buffer[:n]), "\n"), nil
}

func number(text string) *int64 {
	value, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return nil
	}
	return &value
}

// hexNumber is the number of a text such as 0xffffffffc0000000; 0 where it is
// none.
func hexNumber(text string) uint64 {
	digits, ok := strings.CutPrefix(text, "0x")
	if !ok {
		return 0
	}
	value, err := strconv.ParseUint(digits, 16, 64)
	if err != nil {
		return 0
	}
	return value
}

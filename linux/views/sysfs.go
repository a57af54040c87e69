package views

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kmodquery/kmodquery"
)

// maxAttribute is how many bytes of a file in sysfs are read. Such a file has at most one
// page.
const maxAttribute = 4096

// inSysfs returns the loaded modules that have a folder in /sys/module, by the folder's
// names.
func (v *Views) inSysfs() ([]string, error) {
	folders, err := namesIn(v.path(sysModule))
	return slices.DeleteFunc(folders, func(name string) bool { return !isLoaded(v.folder(name)) }), err
}

// inBTF returns the modules whose types the kernel shows.
func (v *Views) inBTF() ([]string, error) {
	names, err := namesIn(v.path(sysBTF))
	return slices.DeleteFunc(names, func(name string) bool { return name == "vmlinux" }), err
}

// namesIn returns up to maxNames names in a folder, in no order.
func namesIn(folder string) ([]string, error) {
	dir, err := os.Open(folder)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(maxNames)
	if errors.Is(err, io.EOF) { // the folder is empty
		err = nil
	}
	return names, err
}

// ofModules are entries that the folder of a loaded module has with all options of the
// kernel. Code that is built into the kernel has a folder for its parameters and its
// version, without these entries. One entry suffices, because a module may remove others.
// Their contents are never read.
var ofModules = []string{"initstate", "coresize", "holders"}

func isLoaded(folder string) bool {
	return slices.ContainsFunc(ofModules, func(name string) bool {
		_, err := os.Lstat(filepath.Join(folder, name))
		return err == nil
	})
}

// describe adds the attributes in sysfs of a module that the list shows.
//
// initstate is never read: the kernel executes BUG() (show_initstate) if the state is
// UNFORMED. Rootkits set that state to hide, and a listed module may set it before
// the file is read. No file is read for a module that is not listed.
func (v *Views) describe(m *kmodquery.Module) {
	folder := v.folder(m.Name)
	m.Version = attribute(folder, "version")
	m.Srcversion = attribute(folder, "srcversion")
}

// holders returns the names of the modules that use a module, as sysfs lists them.
func (v *Views) holders(name string) []string {
	names, _ := namesIn(filepath.Join(v.folder(name), "holders"))
	slices.Sort(names)
	return names
}

// sections calls visit with the addresses of a listed module's sections. It omits the
// sections for its init only, whose memory may belong to another module now. It reports
// whether there was any address.
func (v *Views) sections(name string, visit func(address uint64)) bool {
	folder := filepath.Join(v.folder(name), "sections")
	sections, _ := namesIn(folder)
	found := false
	for _, section := range sections {
		if strings.HasPrefix(section, ".init") || section == ".symtab" || section == ".strtab" {
			continue
		}
		if address := hexNumber(attribute(folder, section)); address != 0 {
			visit(address)
			found = true
		}
	}
	return found
}

// attribute returns the text of a file in sysfs, or "" if it cannot be read.
func attribute(folder, name string) string {
	file, err := os.Open(filepath.Join(folder, name))
	if err != nil {
		return ""
	}
	defer file.Close()
	buffer := make([]byte, maxAttribute)
	n, _ := file.Read(buffer)
	return strings.TrimSuffix(string(buffer[:n]), "\n")
}

// hexNumber parses a text such as 0xffffffffc0000000. It returns 0 if the text is not a
// number.
func hexNumber(text string) uint64 {
	digits, ok := strings.CutPrefix(text, "0x")
	if !ok {
		return 0
	}
	return parseHex(digits)
}

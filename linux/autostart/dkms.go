//go:build linux

package autostart

import (
	"bytes"
	"strings"

	"github.com/kmodquery/kmodquery"
)

// dkmsKeys begin the names of the variables of dkms.conf that name a module, say where it is
// installed, or have a program run as root.
var dkmsKeys = []string{"BUILT_MODULE_NAME", "DEST_MODULE_NAME", "DEST_MODULE_LOCATION", "AUTOINSTALL", "MAKE", "PRE_", "POST_", "PATCH", "source_tree", "dkms_tree",
	"install_tree", "mok_", "sign_file", "post_transaction", "autoinstall_all_kernels"}

// dkmsEntries returns the settings of dkms, which builds and installs modules for each new
// kernel: those of each module in /usr/src, and dkms's own.
func (r *reading) dkmsEntries() []kmodquery.AutostartEntry {
	p := place{name: kmodquery.PlaceDKMS, stage: kmodquery.StageAutoload}
	visit := func(f *file) {
		number := int64(0)
		for line := range bytes.Lines(f.data) {
			number++
			text := strings.Trim(string(line), " \t\r\n")
			key, value, isAssignment := strings.Cut(text, "=")
			if !isAssignment || !hasPrefixOf(key, dkmsKeys) {
				continue
			}
			e := p.entry(f, number, text)
			e.Action, e.Argument = key, strings.Trim(value, `"'`)
			if strings.HasPrefix(key, "BUILT_MODULE_NAME") {
				e.Name, _ = normalize(e.Argument)
			}
			if !p.add(e) {
				return
			}
		}
	}
	for _, source := range p.within(r, "/usr/src", "") {
		p.readFile(r, source+"/dkms.conf", visit)
	}
	p.readFile(r, "/etc/dkms/framework.conf", visit)
	p.read(r, []string{"/etc/dkms/framework.conf.d"}, ".conf", nil, visit)
	return p.entries
}

func hasPrefixOf(text string, prefixes []string) bool {
	for _, prefix := range prefixes {
		if strings.HasPrefix(text, prefix) {
			return true
		}
	}
	return false
}

package record

import "github.com/elastic/go-libaudit/v2/auparse"

// calls are the names of the system calls that load and unload modules.
var calls = []string{"init_module", "finit_module", "delete_module"}

// Call returns the name of the module system call that a SYSCALL record is about, or ""
// for other records.
func (r Record) Call() string {
	if r.Type != auparse.AUDIT_SYSCALL {
		return ""
	}
	arch, ok := r.Fields.Hex("arch")
	if !ok || arch > 1<<32-1 {
		return ""
	}
	number, ok := r.Fields.Int("syscall")
	if !ok || number < 0 || number > 1<<31-1 {
		return ""
	}
	name := auparse.AuditSyscalls[auparse.AuditArch(arch).String()][int(number)]
	for _, call := range calls {
		if name == call {
			return call
		}
	}
	return ""
}

package record

import (
	"math"
	"slices"

	"github.com/elastic/go-libaudit/v2/auparse"
)

// x32Call is the bit in the numbers of calls by x32 programs, which share the
// architecture of 64-bit programs (__X32_SYSCALL_BIT, arch/x86/include/uapi/asm/unistd.h).
// The module system calls have the same numbers otherwise.
const x32Call = 1 << 30

// calls are the names of the system calls that load and unload modules.
var calls = []string{"init_module", "finit_module", "delete_module"}

// Call returns the name of the module system call that a SYSCALL record is about, or ""
// for other records.
func (r Record) Call() string {
	if r.Type != auparse.AUDIT_SYSCALL {
		return ""
	}
	arch, hasArch := r.Fields.Hex("arch")
	number, hasNumber := r.Fields.Int("syscall")
	if !hasArch || !hasNumber || arch > math.MaxUint32 || number > math.MaxInt32 {
		return ""
	}
	if auparse.AuditArch(arch) == auparse.AUDIT_ARCH_X86_64 {
		number &^= x32Call
	}
	name := auparse.AuditSyscalls[auparse.AuditArch(arch).String()][int(number)]
	if !slices.Contains(calls, name) {
		return ""
	}
	return name
}

//go:build linux

package module

import (
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
)

// SignatureStatus returns the kernel's verdict on a module's signature, or "" if it
// gave none. verdict is the result of mod_verify_sig, sigOK the sig_ok field of struct
// module, and result that of the system call. Each may be nil. The kernel does not call
// mod_verify_sig for unsigned modules. Without enforcement it loads modules whose key or
// algorithm it lacks (module_sig_check in kernel/module/signing.c).
func SignatureStatus(verdict *int64, sigOK *bool, result *int64) string {
	switch {
	case result != nil && *result == -int64(unix.EKEYREJECTED):
		return kmodquery.SignatureRejected
	case sigOK != nil && *sigOK:
		return kmodquery.SignatureValid
	case verdict == nil:
		return ""
	}
	switch *verdict {
	case 0:
		return kmodquery.SignatureValid
	case -int64(unix.ENOKEY), -int64(unix.ENOPKG):
		return kmodquery.SignatureUntrusted
	}
	return kmodquery.SignatureRejected
}

//go:build linux

package module

import (
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
)

// SignatureStatus is the kernel's verdict on a module's signature, or "" where
// it gave none. Each argument may be nil: what mod_verify_sig returned, struct
// module's sig_ok, and the system call's result. A module that is not signed
// never comes to mod_verify_sig, and without enforcement one whose key or
// algorithm the kernel lacks is let in (kernel/module/signing.c,
// module_sig_check).
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

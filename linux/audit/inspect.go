//go:build linux

package audit

import (
	"errors"
	"fmt"
)

// Inspect returns what a Run would find: a sentence about the kernel's audit, or the error
// with which it would fail. It changes nothing.
func Inspect() (found string, err error) {
	kernel, err := openKernel()
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, kernel.Close()) }()
	status, err := kernel.Status()
	if err != nil {
		return "", err
	}
	s := setup{kernel: kernel}
	_, hiding, err := s.rules()
	switch {
	case err != nil:
		return "", err
	case status.Enabled == statusOff && status.PID != 0:
		return "", errors.New("audit is off though its daemon runs; switch it on with auditctl -e 1")
	case hiding != "":
		return "", fmt.Errorf("the audit rule %q keeps some system calls out of audit", hiding)
	case status.Enabled == statusOff:
		return "the kernel has audit, which is off and is switched on if it is needed", nil
	case status.Enabled == statusLocked:
		return "the kernel's audit is on, and its rules are locked until the next boot", nil
	}
	return "the kernel's audit is on", nil
}

//go:build linux

package vm

import "strings"

// A PanicError reports a panic of the guest's kernel.
type PanicError struct {
	Reason  string // the kernel's panic line
	Console string // the end of the kernel's output
}

func (e *PanicError) Error() string { return "the guest's kernel panicked: " + e.Reason }

// A StoppedError reports a VM that ended before its program did.
type StoppedError struct {
	Reason  string
	Console string // the end of the kernel's and init's output
}

func (e *StoppedError) Error() string { return "the VM stopped early: " + e.Reason }

func panicLine(console string) string {
	const mark = "Kernel panic - not syncing: "
	_, after, found := strings.Cut(console, mark)
	if !found {
		return ""
	}
	line, _, _ := strings.Cut(after, "\n")
	return strings.TrimSpace(line)
}

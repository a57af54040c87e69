//go:build linux

package bpf

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// A tracer is a part of the kernel that runs programs. Root can switch it off without
// notice.
type tracer struct {
	state string // error text if it is off
	path  string
}

var (
	kprobes = tracer{"kprobes are switched off", "/sys/kernel/debug/kprobes/enabled"}
	// ftrace runs tracing programs, and kprobes at the beginning of a function.
	ftrace = tracer{"ftrace is switched off", "/proc/sys/kernel/ftrace_enabled"}
)

// isOff reports whether the tracer is off; false if that cannot be read.
func (t tracer) isOff() bool {
	content, err := os.ReadFile(t.path)
	return err == nil && strings.TrimSpace(string(content)) == "0"
}

// ErrFtraceOff is matched by an error if no program runs because ftrace is switched off.
var ErrFtraceOff = errors.New("no program runs")

// off returns the error for a tracer that is off.
func (t tracer) off() error { return offError(t) }

type offError tracer

func (e offError) Error() string { return fmt.Sprintf("%s; write 1 to %s", e.state, e.path) }

func (e offError) Is(target error) bool { return target == ErrFtraceOff && tracer(e) == ftrace }

//go:build linux

package vm

import "strings"

// A progress is a writer of a test binary's lines. It logs how each test ended as soon
// as it ends.
type progress struct {
	kernel Kernel
	logf   Logf
}

func (p *progress) Write(line []byte) (int, error) {
	if _, marked, isMarked := strings.Cut(string(line), mark); isMarked {
		if kind, name, took, ok := parseMark(strings.TrimSpace(marked)); ok && took != "" {
			p.logf("guest %s: %s %s %s", p.kernel, kind, name, took)
		}
	}
	return len(line), nil
}

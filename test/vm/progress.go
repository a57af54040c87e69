//go:build linux

package vm

import "strings"

// A progress is a writer of a test binary's lines that logs how each test ended,
// as soon as it did. Where all of them take an hour nobody knows otherwise.
type progress Logf

func (logf progress) Write(line []byte) (int, error) {
	if _, marked, isMarked := strings.Cut(string(line), mark); isMarked {
		if kind, name, took, ok := parseMark(strings.TrimSpace(marked)); ok && took != "" {
			logf("so far: %s %s %s", kind, name, took)
		}
	}
	return len(line), nil
}

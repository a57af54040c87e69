//go:build linux

package ebpf

import (
	"errors"
	"fmt"

	"github.com/kmodquery/kmodquery/bpf"
)

// HasPins reports whether a complete set of eBPF programs is pinned in a directory
// of a BPF file system.
func HasPins(dir string) bool { return bpf.HasPins(dir) }

// Detach removes the programs that are pinned in a directory, and the records that
// were not read. It fails while a process uses them.
func Detach(dir string) error {
	_, err := bpf.Detach(dir)
	if errors.Is(err, bpf.ErrPinsBusy) {
		return fmt.Errorf("%w; end it first", err)
	}
	return err
}

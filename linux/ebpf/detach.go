//go:build linux

package ebpf

import (
	"errors"
	"fmt"

	"github.com/kmodquery/kmodquery/bpf"
)

// HasPins reports whether a whole set of eBPF programs is pinned in a folder of a
// BPF file system.
func HasPins(dir string) bool { return bpf.HasPins(dir) }

// Detach removes the programs that are pinned in a folder, and with them what
// they saw and nobody has read. It fails while a process records with them.
func Detach(dir string) error {
	_, err := bpf.Detach(dir)
	if errors.Is(err, bpf.ErrPinsBusy) {
		return fmt.Errorf("%w; end it first", err)
	}
	return err
}

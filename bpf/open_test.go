//go:build linux

package bpf

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

// openHere attaches what this kernel takes, in a folder of pins.
func openHere(t *testing.T, path string) *Programs {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root may attach BPF programs")
	}
	p, err := Open(t.Context(), Options{ImageLimit: MaxImage, PinDir: path})
	if err != nil {
		t.Skip("this kernel takes no programs: ", err)
	}
	t.Cleanup(func() { p.Close() })
	if err := p.Unpinned(); err != nil {
		t.Skip("this kernel pins no programs: ", err)
	}
	return p
}

// BenchmarkOpen attaches the programs. If a kernel's BTF rules out some of them, all are
// loaded one by one.
func BenchmarkOpen(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("only root may attach BPF programs")
	}
	for b.Loop() {
		p, err := Open(b.Context(), Options{})
		if err != nil {
			b.Skip("this kernel takes no programs: ", err)
		}
		require.NoError(b, p.Close())
	}
}

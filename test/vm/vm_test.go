//go:build linux

package vm

import (
	"testing"

	"github.com/kmodquery/kmodquery/test/vm/guest"
)

// guestDisk is the image of an ext4 filesystem in the guest.
const guestDisk = "/root/disk.ext4"

func TestMain(m *testing.M) { guest.Main(m) }

// TestKernels boots every kernel of the matrix and runs the TestGuest… tests
// of this package in it.
func TestKernels(t *testing.T) {
	for _, kernel := range Matrix() {
		t.Run(kernel.String(), func(t *testing.T) {
			t.Parallel()
			Test(t, kernel, "^TestGuest", Options{Modules: []string{"overlay", "ext4", "brd", "af_alg"}, Ext4: guestDisk})
		})
	}
}

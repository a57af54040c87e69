//go:build linux

package vm

import (
	"fmt"
	"os"
	"testing"

	"github.com/kmodquery/kmodquery/test/suite"
	"github.com/kmodquery/kmodquery/test/vm/guest"
)

// guestDisk is the image of an ext4 filesystem in the guest.
const guestDisk = "/root/disk.ext4"

func TestMain(m *testing.M) {
	guest.Init()
	code := m.Run()
	if err := RemoveBuilds(); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

// TestKernels boots the oldest and the newest kernel, with SUITE=all every kernel of
// the matrix, and runs the TestGuest… tests of this package in it.
func TestKernels(t *testing.T) {
	for _, kernel := range Matrix() {
		if name := kernel.String(); !suite.All() && name != Oldest().String() && name != Newest().String() {
			continue
		}
		t.Run(kernel.String(), func(t *testing.T) {
			t.Parallel()
			Test(t, kernel, "^TestGuest", Options{Modules: []string{"overlay", "ext4", "brd", "af_alg"}, Ext4: guestDisk})
		})
	}
}

//go:build linux

package vm

import (
	"testing"

	"github.com/kmodquery/kmodquery/test/vm/guest"
)

func TestMain(m *testing.M) { guest.Main(m) }

// TestKernels boots every kernel of the matrix and runs the TestGuest… tests
// of this package in it.
func TestKernels(t *testing.T) {
	for _, kernel := range Matrix() {
		t.Run(kernel.String(), func(t *testing.T) {
			t.Parallel()
			Test(t, kernel, "^TestGuest", Options{Modules: []string{"overlay", "ext4"}})
		})
	}
}

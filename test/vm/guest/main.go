//go:build linux

package guest

import (
	"os"
	"testing"
)

// Main is the TestMain of a package that has guest tests. In a VM it makes the test
// binary init; elsewhere it runs the tests. It does not return.
func Main(m *testing.M) {
	Init()
	os.Exit(m.Run())
}

// Only skips a test that needs a VM of its own if it does not run in one. Call it first
// in every test named TestGuest…, which package vm runs.
func Only(t testing.TB) {
	t.Helper()
	if Kernel() == "" {
		t.Skip("runs inside a test VM: package vm boots one and runs it there")
	}
}

// Kernel returns the name of the matrix's kernel this process runs on, such as
// "6.1", or "" outside a test VM.
func Kernel() string { return os.Getenv(KernelEnv) }

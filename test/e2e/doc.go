// Package e2e tests the built extension as users run it: started by an osquery
// (test/osqueryhost) over a real socket, or queried through its own SQL shell; on this
// host, and inside VMs (test/vm) with real kernels that load real modules. Its tests
// are of three kinds: TestGuest… run inside a VM and compare rows column by column,
// testdata/host/*.txtar are scripts for any host, and testdata/guest/*.txtar are
// scripts for a VM.
package e2e

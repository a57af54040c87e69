// Package vm boots real Debian kernels under QEMU's software emulation with a Go binary
// as their init, and returns that binary's output.
//
// [Test] runs the guest tests of the calling package (those named TestGuest…) on a
// kernel of the [Matrix] and repeats each verdict as a subtest. A [Machine] does the
// same without package testing: it runs any program and returns its output and exit
// code, or connects it to an interactive console.
//
// Kernels and the guest's few programs are Debian packages. They are fetched once, with
// apt's own checks of their signatures, into a cache folder: .cache/vm in the module's
// root, or the folder that [CacheEnv] names. Remove the folder to fetch newer ones. The
// only change to the host is the installation of missing packages ([Prepare]).
//
// The package imports package guest, its counterpart inside the VM, and nothing else of
// the project. It works on Linux only; elsewhere it is empty.
package vm

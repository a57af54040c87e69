// Package vm boots real Debian kernels under QEMU's software emulation with a
// Go binary as their init, and returns what that binary says.
//
// [Test] runs the guest tests of the calling package (those named TestGuest…)
// on a kernel of the [Matrix] and repeats each verdict as a subtest. A
// [Machine] is the same without package testing: any program, its output and
// its exit code, or an interactive console.
//
// Kernels and the guest's few programs are Debian packages, fetched once, with
// apt's own checks of their signatures, into a cache folder: .cache/vm in the
// module's root, or what [CacheEnv] names. Remove it to fetch newer ones. The
// only change to the host is the installation of missing packages ([Prepare]).
//
// The package imports package guest, which is the other end inside the VM, and
// nothing else of the project. It works on Linux only; elsewhere it is empty.
package vm

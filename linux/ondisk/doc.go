// Package ondisk finds the file of a loaded module, the file's hash and signer, and the
// package that owns the file. It imports the root package, package module and
// internal/cmdout, works below any root folder, and compiles on all systems.
//
// The file that is on disk now does not prove what was loaded. Only the events show which
// bytes the kernel read.
package ondisk

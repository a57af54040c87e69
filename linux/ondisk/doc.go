// Package ondisk finds the file of a loaded module, the file's hash and signer, and the
// package that owns the file. It imports the root package, packages module and host, and
// internal/cmdout and internal/lookup, and works below any root folder.
//
// If the events show what the kernel read, a file counts only if it is the same.
// Otherwise the file that modprobe would load now does not prove what was loaded.
package ondisk

// Package loaded lists the kernel extensions that macOS has loaded or remembers from
// earlier loads, and describes their files on disk. It imports the root package,
// packages internal/cmdout, internal/lookup and darwin/host, runs programs of macOS, and compiles on
// every system.
//
// macOS offers no view of its kernel besides the kernel's own list, so a hidden
// extension cannot be found. A file on disk does not prove what was loaded;
// KextPolicy has the hash of the loaded code.
package loaded

// Package autostart reads the places of a host's configuration that load kernel modules, and
// resolves them as modprobe and systemd do. It imports the root package, package host and
// internal/lookup, and works below any root folder.
//
// Root writes these files, and may write anything there. All reads are bounded, and a file
// that cannot be read whole is an entry that says so.
package autostart

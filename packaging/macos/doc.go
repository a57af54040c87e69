// Package macos has no code, only tests of the files in this folder: a launchd service,
// the rotation of its log, and examples of configuration profiles for Macs.
package macos

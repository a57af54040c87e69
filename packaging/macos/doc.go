// Package macos has no code, only tests of the files in this folder: a launchd service
// and an example of a configuration profile for Macs.
package macos

// Package macos holds no code: it is the folder of what is installed on a Mac
// beside the binary, a launchd service and an example of a configuration profile,
// and of their tests.
package macos

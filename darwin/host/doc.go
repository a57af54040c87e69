// Package host has what the sources in packages darwin/es and darwin/ulog and the
// views in package darwin/loaded share: the paths of the programs of macOS, the
// present boot, and how a program is started that must end with this process. It
// imports the root package.
//
// kmodquery asks macOS through the programs that come with it ([Programs]), so
// everything in the folder darwin is pure Go and runs on any Unix against
// stand-ins for them. Only ReadBoot asks the kernel itself.
package host

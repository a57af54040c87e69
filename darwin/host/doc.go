// Package host has what the packages in the folder darwin share: the paths of
// macOS's programs ([Programs]), the current boot ([Boot]), the mounts of remote file systems, and how a program is
// started so that it ends with this process ([Command], [Start]). It imports the root
// package.
//
// kmodquery reads macOS through the programs that come with it. The packages in
// the folder darwin are therefore pure Go and run on any Unix against stand-ins
// for these programs. Only ReadBoot and RemoteMounts make system calls of macOS.
package host

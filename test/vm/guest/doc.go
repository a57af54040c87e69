// Package guest is the inside of a test VM. It makes the program that imports it the
// VM's init process, and provides functions with which tests load and unload modules.
//
// A VM started by package vm runs one binary as /init. That binary calls [Init] first
// (test binaries call it through [Main]). As process 1 it mounts the filesystems,
// starts itself or another program as an ordinary child, passes the child's output and
// exit code to the host, and switches the machine off. Tests run in the child, so a
// crash or a stray wait in a test does not end init.
//
// It imports no package of the project. It works on Linux only; elsewhere it is empty.
package guest

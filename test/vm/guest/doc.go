// Package guest is the inside of a test VM: it turns the program it is linked
// into into the VM's init process and offers what tests need there to load and
// unload modules.
//
// A VM started by package vm runs one binary as /init. That binary calls [Init]
// first thing (test binaries through [Main]): as process 1 it mounts the
// filesystems, starts itself or another program as an ordinary child, passes
// the child's output and exit code to the host, and switches the machine off.
// The child is what tests run in, so that a crash or a stray wait in a test
// never takes init down.
//
// It imports no package of the project. It does something on Linux only;
// elsewhere the package is empty.
package guest

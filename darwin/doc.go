// Package darwin turns what macOS knows about kernel extensions into events.
// Its sources satisfy the Source interface of package collectors without
// importing it. It imports the root package, packages internal/source and internal/cmdout and
// its own subpackages.
//
// macOS is asked through the programs that come with it ([Programs]), so all of
// this is pure Go and runs, against stand-ins for them, on any Unix. Only
// ReadBoot asks the kernel itself.
package darwin

// Package darwin turns what macOS knows about kernel extensions into events.
// Its sources satisfy the Source interface of package collectors without
// importing it. It imports the root package only.
//
// This version has no macOS source yet: on macOS the tables answer, and
// kernel_module_sensors says that nothing is watched.
package darwin

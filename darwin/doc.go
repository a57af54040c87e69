// Package darwin turns what macOS knows about kernel extensions into events.
// Its sources satisfy the Source interface of package collectors without
// importing it. It imports the root package only.
//
// This version does not watch macOS: the tables answer there, and
// kernel_module_sensors says that nothing is watched.
package darwin

// Package ulog has the source that reads the unified log with log(1): which
// kernel extensions were loaded, failed to load, were unloaded, allowed or
// blocked. It imports the root package, packages internal/source and
// internal/cmdout, and packages darwin/host and darwin/kextlog. Its Source
// satisfies the Source interface of package collectors without importing it.
package ulog

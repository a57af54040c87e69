// Package es has the source that reads Endpoint Security events from eslogger(1):
// requests to load and unload kernel extensions, and the verdict on each. It
// imports the root package, packages internal/source and internal/cmdout, and
// package darwin/host. Its Source satisfies the Source interface of package
// collectors without importing it.
package es

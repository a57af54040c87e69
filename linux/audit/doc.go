// Package audit is the source that reads the kernel's audit records of module
// system calls, from the kernel itself or from the audit daemon's log. It satisfies
// the Source interface of package collectors without importing it. It imports the
// root package, internal/source, linux/host, linux/logfile, linux/module and its own
// subpackage record, which parses audit records.
package audit

// Package linux turns what Linux hosts know about kernel modules into
// events. Its sources satisfy the Source interface of package collectors
// without importing it: eBPF, audit, and the logs that have the kernel's
// messages. It imports the root package, packages internal/source, internal/cmdout and bpf
// and its own subpackages: module (a module's image), auditlog and printk (what
// records and messages say). Packages views (what shows that a module is there)
// and ondisk (its file) stand beside it.
//
// The package's subject exists on Linux only; the files that need the kernel
// carry a build constraint, so that the package itself compiles everywhere.
package linux

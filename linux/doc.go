// Package linux turns what Linux hosts know about kernel modules into
// events. Its sources satisfy the Source interface of package collectors
// without importing it. It imports the root package and package bpf.
//
// The package's subject exists on Linux only; the files that need the kernel
// carry a build constraint, so that the package itself compiles everywhere.
package linux

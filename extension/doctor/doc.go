// Package doctor checks what kmodquery needs on a host: the kernel, its rights, its files,
// the recorder and osquery. Its checks change nothing, and each has a bounded time. The
// command that runs them is in package extension.
package doctor

// Package ebpf is the source that hooks the kernel's module functions. It turns the
// records of package bpf into events: [Source] reads the ring buffers, puts together
// what several records say about one load attempt, and adds what the module's image
// and the loading process tell. It satisfies the Source interface of package
// collectors without importing it. It imports the root package, internal/source, bpf,
// linux/host and linux/module.
package ebpf

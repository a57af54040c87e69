// Package ebpf is the source that hooks the kernel's module functions. It converts
// the records of package bpf to events: [Source] reads the ring buffers, merges the
// records of each load attempt, and adds columns about the module's image and the
// loading process. It satisfies the Source interface of package collectors without
// importing it. It imports the root package, internal/source, bpf,
// linux/host and linux/module.
package ebpf

// Package bpf holds the programs that run in the kernel, the layout of the records
// that they send, and the code that loads and attaches the programs and decodes the
// records. It knows nothing of events or SQL and imports no other package of this
// project. Package linux/ebpf turns its records into events.
//
// module.bpf.c, and locked.bpf.c for kernels that let no program read memory,
// are compiled by go generate (clang 14 or later); the objects are
// committed, so that building needs no clang. The C sources are under
// GPL-2.0-only or BSD-2-Clause, because the kernel requires a GPL-compatible licence of
// programs that use some helpers.
package bpf

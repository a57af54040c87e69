// Package kmodquery is the domain of the kmodquery osquery extension: what a
// kernel module event is, how events are selected, what a detection signature
// and its findings are, and how a source reports on its own health.
//
// Everything else depends on this package and it depends on the standard
// library only. The data's way runs from the kernel's hooks through package
// bpf and package linux (or darwin) as [Event] values into package collectors,
// from there into the event store, and out again through package tables, which
// turns osquery's constraints into a [Filter] and judges each [Event] by the
// [Signature] list.
package kmodquery

// Version names this release in the sensors table, to osquery and in the
// command's own output. It follows semantic versioning.
const Version = "0.1.0"

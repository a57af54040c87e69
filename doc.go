// Package kmodquery is the domain of the kmodquery osquery extension. It defines
// kernel module events, filters that select them, detection signatures and their
// findings, and the health that a source reports.
//
// All other packages depend on this one; it depends on the standard library only.
// An event passes from a kernel hook through package bpf and a package below linux
// (or darwin) to package collectors as a [Delivery], and from there into the event
// store. Package tables reads it back: it turns osquery's constraints into a
// [Filter] and evaluates each [Signature] on each [Event].
package kmodquery

// Version is the release, by semantic versioning. The sensors table, osquery's list
// of extensions and the command show it.
const Version = "0.1.0"

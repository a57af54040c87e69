// Package osqueryhost is a test double of osqueryd as an extension sees it:
// the same Thrift protocol on a UNIX socket, the same rules of registration,
// the same pings, the same way of starting and restarting extension processes,
// the same schedule, differential and results log.
//
// It stands where osqueryd stands, at the very end of the data's way: it asks
// an extension's tables and writes what a log pipeline would read. Where it
// follows a peculiarity of osquery, the comment names osquery's source file
// (commit a5b14f63). Left out on purpose: the splay of intervals, so that a
// test knows when a query runs, the watchdog, and decorations.
//
// It may import the generated Thrift code and client of osquery-go, and
// extension/virtualtable, which attaches tables to SQLite as osquery does. It
// starts no program but the extensions it is told to start, so it also runs in
// a virtual machine that has nothing else.
package osqueryhost

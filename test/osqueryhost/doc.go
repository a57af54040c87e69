// Package osqueryhost is a test double of osqueryd as an extension sees it:
// the same Thrift protocol on a UNIX socket, the same rules of registration,
// the same pings, the same way of starting and restarting extension processes,
// the same schedule, differential and results log.
//
// It replaces osqueryd: it queries the tables and writes the results log. Where it
// follows a peculiarity of osquery, the comment names osquery's source file (commit
// a5b14f63). It deliberately omits the splay of intervals, so that a test knows when a
// query runs, the watchdog, and decorations.
//
// It may import the generated Thrift code and client of osquery-go, and
// extension/virtualtable, which attaches tables to SQLite as osquery does. It starts
// only the given extensions, so it also runs in a virtual machine without other
// programs.
package osqueryhost

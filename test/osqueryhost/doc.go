// Package osqueryhost is a test double of osqueryd as an extension sees it:
// the same Thrift protocol on a UNIX socket, the same rules of registration,
// the same pings, the same way of starting and restarting extension processes,
// the same schedule, differential and results log.
//
// It replaces osqueryd: it queries the tables and writes the results log. Where it
// follows a peculiarity of osquery, the comment names osquery's source file (commit
// a5b14f63).
//
// Modelled as well:
//
//   - SQL results: missing TEXT and BLOB cells are empty and never NULL, text ends at its
//     first NUL, doubles have 15 digits, the rows of several statements are appended, and
//     errors have SQLite's and osquery's words. A dropped table fails to be constructed.
//   - The request: LIMIT comes before OFFSET, on the first column, and the used columns
//     have no order.
//   - The logger: --logger_numerics, --logger_event_type and the differential by type. The
//     filesystem logger writes lines of any length. With --logger_plugin=tls, lines above
//     --logger_tls_max_linesize are dropped.
//   - Threads: the schedule, live queries (Host.Live) and clients' queries (Host.Query)
//     run side by side. Only the first of them uses the primary SQLite connection.
//   - The worker and its watchdog, which Options.Flags switches on: a cell costs 600 bytes
//     while a query runs. Above the limit the worker's queries and connections end, the
//     scheduled query that ran is denied for a day, which the database outlives, and so are
//     the live ones. The next worker starts with osquery's back-off, knows no extension,
//     and runs its discovery queries before one can register, unless
//     --extensions_require names it.
//   - The tables osquery_packs, osquery_schedule, osquery_flags, processes (from /proc) and
//     users, with those columns that cost nothing to know.
//
// Not modelled:
//
//   - The splay of intervals, so that a test knows when a query runs, --startup_priority
//     and decorations.
//   - The watchdog's limits on the processor, its look every three seconds and its delay of
//     a minute: it always looks. --enable_extensions_watchdog is shown and does nothing.
//   - How the 600 bytes are composed: the largest of the replies, the result and the
//     former result counts, not their sum. Of several cursors on one table only the
//     largest reply counts.
//   - A worker that ends on SIGTERM: it is always killed, so extensions get no Shutdown.
//   - --logger_snapshot_event_type, rotation of logs, status logs, the TLS logger's
//     buffering, and other loggers. Snapshots are always in their own file.
//   - osquery's SQL functions and collations, its event tables, and types of expressions in
//     a query's columns. Temporary tables end when an extension registers or goes.
//   - One request for an IN list on an indexed and optimized column
//     (extension/virtualtable), and a cached reply of a table.
//   - The rounding of rapidjson's parser, for which some doubles differ from themselves.
//   - The numbers of osquery_schedule after a restart of the host.
//
// It may import the generated Thrift code and client of osquery-go, and
// extension/virtualtable, which attaches tables to SQLite as osquery does. It starts
// only the given extensions, so it also runs in a virtual machine without other
// programs.
package osqueryhost

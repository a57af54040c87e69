// Package shell is the SQL shell over a database: it reads statements from a
// terminal or a stream, runs them one by one and writes their rows as a table,
// JSON, CSV or lines.
//
// It stands at the end of the data's way: package main opens a database over
// the tables (package virtualtable) and hands it here. What it writes comes
// from the watched host, where an attacker chooses names and paths, so nothing
// of it may act on the reader's terminal: see [Format].
//
// The package imports database/sql, a line editor, character widths, and of this
// project the root package.
package shell

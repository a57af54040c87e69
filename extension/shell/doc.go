// Package shell implements an SQL shell for a database: it reads statements from a
// terminal or a stream, runs them one after the other and writes their rows as a table,
// JSON, CSV or lines.
//
// Package main opens a database of the tables with package virtualtable and passes it to
// this package. The values come from the watched host, where an attacker chooses names
// and paths, so they must not control the terminal: see [Format].
//
// The package imports database/sql, a line editor, a package for the width of characters,
// and the root package and package tables of this project.
package shell

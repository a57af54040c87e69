// Package sqlite is the event store: an SQLite database in write-ahead mode. One
// process, the recorder, writes it, and any number of processes read it.
//
// Package collectors appends events in batches, and package tables selects them with a
// [kmodquery.Filter]. An event is written once and never changed; only expiry deletes
// it.
//
// The store trusts neither the disk nor the clock. Rows have checksums. A damaged
// database is set aside and never deleted. If the store cannot be written, it says why.
// A wall clock that jumps ahead deletes nothing.
//
// The package may import package kmodquery, SQLite, the query builder and
// golang.org/x/sys, and no other package of the project.
package sqlite

// Package sqlite is the event store: an SQLite database in write-ahead mode
// that one process, the recorder, writes and any number of processes read.
//
// It stands between the pipeline, which appends finished events in batches,
// and the tables, which select them through a [kmodquery.Filter]. Events are
// written once, never changed, and leave by retention only.
//
// It trusts neither the disk nor the clock: rows have sums, a damaged database is
// set aside and never deleted, what cannot be written is refused with a reason,
// and a wall clock that leaps ahead deletes nothing.
//
// It may import package kmodquery, SQLite, the query builder and
// golang.org/x/sys; no other package of the project.
package sqlite

// Package sqlite is the event store: an SQLite database in write-ahead mode
// that one process, the recorder, writes and any number of processes read.
//
// It stands between the pipeline, which appends finished events in batches,
// and the tables, which select them through a [kmodquery.Filter]. Events are
// written once, never changed, and leave by retention only.
//
// It may import package kmodquery, SQLite, the query builder and
// golang.org/x/sys; no other package of the project.
package sqlite

// Package tables holds the osquery tables: one file a table, and one list of
// them all.
//
// It is the last stop on the data's way. A table takes the constraints and the
// used columns that osquery sends, reads the events that a
// [kmodquery.Filter] made of them selects, and answers with rows. Two laws
// hold in all of them: the rows are a superset of what was asked, because
// osquery filters again, and what nobody asked for is neither read nor sent.
//
// It may import package kmodquery and osquery-go; the store, the sources and
// the signatures are handed in.
package tables

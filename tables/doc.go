// Package tables implements the osquery tables, one file a table. [Plugins] lists them.
//
// A table turns the constraints that osquery sends into a [kmodquery.Filter], reads the
// events that it selects, and returns them as rows. The rows are a superset of what the
// query asks for, because osquery filters them again. Columns that the query does not
// use are neither read nor sent.
//
// The package may import package kmodquery and osquery-go. The caller provides the store,
// the recorder and the signatures.
package tables

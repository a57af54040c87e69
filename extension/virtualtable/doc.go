// Package virtualtable runs SQL on osquery table plugins without osquery. Each plugin is
// a virtual table in an in-memory SQLite database, and SQLite's calls of that table become
// the request that osquery would send.
//
// The query command and the shell read plugins of this process through the package. The
// tests' osquery host reads plugins behind a Thrift socket. A query must have the same
// result as in osquery, so each rule follows osquery's own virtual tables
// (osquery/sql/virtual_table.cpp, osquery/sql/dynamic_table_row.cpp and
// osquery/core/tables.cpp at a5b14f63), including their peculiarities.
//
// There are two differences. For an IN list on a column that is both indexed and
// optimized, osquery sends one request with all values, and this package one request per
// value; the rows are the same. osquery allows statements that create or drop virtual
// tables, and this package refuses them.
//
// [OpenShell] adds what people need, which osquery lacks.
//
// The package imports osquery-go's generated protocol types, the SQLite driver and package
// internal/human.
package virtualtable

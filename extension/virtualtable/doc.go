// Package virtualtable answers SQL over osquery table plugins without osquery:
// it gives each plugin a virtual table in an in-memory SQLite database and
// turns what SQLite asks of that table into the request that osquery would
// have sent.
//
// It stands at the end of the data's way, above the tables: package main's
// query command and shell read local plugins through it, and the osquery host
// double reads plugins behind a Thrift socket. A query must mean here what it
// means in osquery, so each rule follows osquery's own virtual tables
// (osquery/sql/virtual_table.cpp, osquery/sql/dynamic_table_row.cpp and
// osquery/core/tables.cpp at a5b14f63), oddities included.
//
// Two things differ. An IN list on a column that is both indexed and optimized
// comes as one request a value, where osquery sends one request with them all;
// the rows are the same. And statements that create or drop virtual tables
// are refused, which osquery allows.
//
// The package imports osquery-go's generated protocol types and the SQLite
// driver, and nothing of this project.
package virtualtable

// Package packs is the folder of the query packs: kernel-modules.conf for osquery, and
// fleet for Fleet, with policies. It contains their tests and no other code.
//
// osquery compares whole results. Each query therefore asks for a cursor, selects
// columns that never change once written, and drops removed lines, so that a row is
// shipped once and leaves the result silently. Missing text is empty in osquery and NULL in
// the project's shell, and each query has the same rows in both. The tests may import
// package tables for the columns, test/osqueryhost for osquery and extension/virtualtable
// for the shell.
package packs

// Package packs is the folder of the query packs, kernel-modules.conf for osquery and
// kernel-modules.fleet.yml for Fleet. It contains their tests and no other code.
//
// osquery compares whole results. Each query therefore asks for a window of time, selects
// columns that never change once written, and drops removed lines, so that a row is
// shipped once and leaves the window silently. The tests may import package tables for
// the columns and test/osqueryhost for the schedule.
package packs

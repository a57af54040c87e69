// Package packs holds no code: it is the folder of the ready-made query packs,
// kernel-modules.conf for osquery and kernel-modules.fleet.yml for Fleet, and
// of their tests.
//
// The packs stand at the end of the data's way, where a log pipeline begins.
// osquery compares whole results, so each query asks for a window of time,
// selects columns that never change once written, and drops removed lines; a
// row is then shipped once and leaves the window in silence. The tests may
// import package tables for the schemas and test/osqueryhost for the schedule.
package packs

// Command kmodquery.ext is an osquery extension that knows which kernel
// modules were loaded. This package is its wiring: flags, the sources of the
// platform, the event store and the tables, joined into the commands
//
//	kmodquery.ext --socket PATH   serve osquery (osquery itself starts it so)
//	kmodquery.ext query [SQL]     answer SQL without osquery
//	kmodquery.ext record          record without osquery, as a service of its own
//
// It is the only package that knows all others; virtualtable and shell below
// it carry the SQL shell.
package main

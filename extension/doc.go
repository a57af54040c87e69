// Command kmodquery.ext is an osquery extension that records which kernel modules are
// loaded. This package connects the flags, the sources of the platform, the event store
// and the tables to these commands:
//
//	kmodquery.ext --socket PATH   serve osquery, which starts extensions this way
//	kmodquery.ext query [SQL]     run SQL without osquery
//	kmodquery.ext record          record without osquery, as a service
//	kmodquery.ext detach          store the events of the pinned programs, and remove them
//	kmodquery.ext config          show the settings, or look for mistakes in them
//	kmodquery.ext version, help   describe the build and the commands
//
// It is the only package that imports all others. Its folders virtualtable and shell
// implement the SQL shell.
package main

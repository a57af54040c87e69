// Package cmdout reads the output of commands within bounds. Sources and views in
// packages linux and darwin use it for the programs of the host that they run. It
// imports the standard library only.
package cmdout

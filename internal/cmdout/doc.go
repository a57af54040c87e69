// Package cmdout reads the output of commands, and lines, within bounds. The packages in the
// folders linux and darwin use it for the programs of the host that they run, and for log
// files. It imports the standard library only.
package cmdout

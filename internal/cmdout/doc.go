// Package cmdout reads the output of commands within bounds. The packages in the folders
// linux and darwin use it for the programs of the host that they run. It imports the
// standard library only.
package cmdout

// Package printed takes what programs print, however much that is. The sources
// and views of packages linux and darwin that ask a program of the host use it. It
// imports the standard library only.
package printed

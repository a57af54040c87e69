// Package ondisk finds what lies on disk for a module that is loaded: its file,
// what this file says of itself, and the package that owns it. It imports the
// root package and package module, works below any root folder, and compiles
// everywhere.
//
// What is on disk now is no proof of what was loaded: only the events say what
// the kernel took.
package ondisk

// Package loaded looks at which kernel extensions macOS has loaded, what it
// remembers of those that it loaded before, and what lies on disk for them. It
// imports the root package and package darwin/host, runs the programs of macOS that
// know, and compiles everywhere.
//
// Nothing of macOS's kernel can be read past its own list, so nothing is found
// here that hides. What is on disk now is no proof of what was loaded; KextPolicy
// has the hash of that.
package loaded

// Package module reads what the bytes of a Linux kernel module say about
// themselves: their hashes, who signed them and what .modinfo states. It
// imports no package of the project and compiles everywhere.
//
// The bytes are not trusted. Whoever may load a module may have made them to
// mislead or to exhaust their reader, so every step is bounded in time and
// memory, and what could not be read is named. Where readers could differ, the
// kernel's own reading is followed, so that what is told is what was loaded.
package module

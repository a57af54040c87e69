// Package kextlog parses the messages about kernel extensions in macOS's unified
// log, as log(1) prints them in its ndjson style. It has no side effects and
// imports the standard library only.
//
// Any process can log any text. A [Record] therefore yields statements only if its
// process, by the path that the log itself records, is one of those that handle
// kernel extensions, and if its whole message has a form that this process
// writes. The names, paths and versions in it are those of the extension, and the
// extension's author chose them.
//
// The message forms come from published logs of macOS 12 to 26 and from the source of its kernel. Apple does not
// document them. A message of any other form yields no statement.
package kextlog

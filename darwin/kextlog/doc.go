// Package kextlog reads what macOS's unified log says of kernel extensions: the
// lines of log(1) in its style ndjson, who speaks in them, and what is said. It
// is pure and knows no event; it imports the standard library only.
//
// Whoever can log can log any text. So a [Record] says something only where its
// process is one of those that handle kernel extensions, by the path that the
// log itself notes, and where its whole text has the form that this process
// writes. Names, paths and versions in it are those of the extension, and
// whoever made it chose them.
//
// The forms were taken from what people published of macOS 10.13 to 26, not
// from documentation: Apple has none. What does not match says nothing.
package kextlog

// Package report writes one page of HTML about what the tables of this extension have. The
// page is complete in itself: it names no address, runs no script and can be read without
// colours, with the keyboard, with a screen reader and on paper.
package report

// Package host reads what the Linux sources need to know of the host itself: its
// clocks, its boot id, and the names of errnos. It imports the root package only.
package host

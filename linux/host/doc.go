// Package host provides the Linux sources with facts about the host: its clocks, its
// boot id, and the names of errnos. It imports the root package only.
package host

// Package host provides the Linux sources with facts about the host: its clocks, its
// boot id, the names of errnos, its mounts, and files that can be opened without harm. It
// imports the root package only.
package host

// Package collectors runs the sources of events and stores what they see: it starts
// and restarts the sources, correlates their events, appends them to the event store in
// batches, and can wait until everything that happened before a moment is stored. It
// stands between the sources (packages linux and darwin) and the store (tables/sqlite)
// and knows both by interfaces. It imports the root package, its subpackage crossview
// and internal/progress only.
package collectors

// Package collectors runs the sources of events and brings what they see into
// the event store: it starts and restarts them, gathers their events into
// batches, and can say that everything which happened before a moment is
// stored. It stands between the sources (packages linux and darwin) and the
// store (tables/sqlite), knows neither, and imports the root package only.
package collectors

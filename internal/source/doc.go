// Package source is what all event sources share. A [Health] holds what a source
// reports about itself, the progress of its loops and the Sync calls that wait for it;
// it provides the Name, Sync, Sensor and LastRound methods that package collectors asks
// of a source. A [Barrier] serves the Sync calls in a run loop. The package imports the
// root package and internal/progress only.
package source

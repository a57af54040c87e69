// Package source is what all event sources share. A [Health] holds what a source
// reports about itself and the Sync calls that wait for it; it provides the Name,
// Sync and Sensor methods that package collectors asks of a source. A [Barrier] serves
// the Sync calls in a run loop. The package imports the root package only.
package source

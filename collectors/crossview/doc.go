// Package crossview compares what several views of the kernel show with what the
// sources reported, and emits the differences as events. It imports the root package
// and internal/progress only.
package crossview

// Package leak fails a package's tests when they leave goroutines or open files
// behind: what a test leaves, an extension that osquery starts and stops for
// months would gather. Only tests import it, and it imports nothing of the
// project.
package leak

// Package leak fails a package's tests when they leave goroutines or open files behind.
// Such leaks would accumulate in an extension that osquery starts and stops for months.
// Only tests import it, and it imports nothing of the project.
package leak

// Package race reports whether tests run under Go's race detector, which makes Go
// code many times slower. Only tests import it, and it imports nothing of the project.
package race

// share divides the heavy work of a test under the race detector. Races depend on
// the interleaving of operations, not on their number.
const share = 4

// Scale returns how many of n operations a test performs: all of them, or a fourth
// under the race detector. The test's expectations must hold for both.
func Scale(n int) int {
	if Enabled {
		return n / share
	}
	return n
}

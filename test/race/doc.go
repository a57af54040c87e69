// Package race says to tests whether they run under Go's race detector, which
// makes everything that Go does many times slower. Only tests import it, and it
// imports nothing of the project.
package race

// share is the part of a test's heavy work that is done under the race detector:
// races show in how things meet, not in how many of them there are.
const share = 4

// Scale returns how many of n things a test is to do: all of them, or a fourth of
// them under the race detector. What the test wants of them must hold for both.
func Scale(n int) int {
	if Enabled {
		return n / share
	}
	return n
}

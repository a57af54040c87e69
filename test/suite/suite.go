// Package suite selects how much of their work tests do in a run. CONTRIBUTING lists
// the purpose of each suite. Only tests import it, and it imports package race.
package suite

import (
	"os"
	"testing"

	"github.com/kmodquery/kmodquery/test/race"
)

// Env names the environment variable that selects a suite: "all" or "long". When
// it is unset the suite is that of make test. The guests of a suite have the same
// value in their environment.
const Env = "SUITE"

// All reports whether this run is make test-all or make test-long: every test on
// every kernel that it can differ on.
func All() bool { return os.Getenv(Env) == "all" || Long() }

// Long reports whether this run is make test-long, which is run by hand before a
// release.
func Long() bool { return os.Getenv(Env) == "long" }

// share is the divisor of a long repetition in the other suites.
const share = 5

// Repeat returns how often a test repeats something that make test-long repeats n
// times: n times in make test-long, and a fifth of that otherwise, but at least once.
func Repeat(n int) int {
	if Long() {
		return n
	}
	return max(1, n/share)
}

// Trials returns how many of n random trials a test makes: n in make test-all and make
// test-long, a fourth in make test, and a sixteenth in make unit and under the race
// detector, but at least one.
func Trials(n int) int {
	switch {
	case testing.Short() || race.Enabled:
		n /= 16
	case !All():
		n /= 4
	}
	return max(1, n)
}

// Package suite says to tests how much of the whole a run of them is to do.
// CONTRIBUTING lists what each suite is for. Only tests import it, and it imports
// package race.
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

// Long reports whether this run is make test-long, for what is run by hand before
// a release.
func Long() bool { return os.Getenv(Env) == "long" }

// share is the part of a long repetition that the other suites do.
const share = 5

// Repeat returns how often a test repeats what it is meant to do n times: n times in
// make test-long, and a fifth of that otherwise, at least once.
func Repeat(n int) int {
	if Long() {
		return n
	}
	return max(1, n/share)
}

// Trials returns how many random trials a test makes that is meant to make n of them:
// n in make test-all and make test-long, a fourth in make test, and a sixteenth in
// make unit and under the race detector, but at least one.
func Trials(n int) int {
	switch {
	case testing.Short() || race.Enabled:
		n /= 16
	case !All():
		n /= 4
	}
	return max(1, n)
}

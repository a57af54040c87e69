package main

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/kmodquery/kmodquery/test/leak"
)

// leakChecked runs the tests and fails if they leak goroutines.
type leakChecked struct{ *testing.M }

func (l leakChecked) Run() int {
	const osqueryGo = "github.com/osquery/osquery-go"
	return leak.Run(l.M,
		// It ignores its context and ends after its timeout.
		goleak.IgnoreAnyFunction(osqueryGo+"/transport.waitForSocket"),
	)
}

package main

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/kmodquery/kmodquery/test/leak"
)

// leakChecked are the tests, which must leave nothing behind.
type leakChecked struct{ *testing.M }

func (l leakChecked) Run() int {
	const osqueryGo = "github.com/osquery/osquery-go"
	return leak.Run(l.M,
		// It heeds no context, and ends with its timeout.
		goleak.IgnoreAnyFunction(osqueryGo+"/transport.waitForSocket"),
	)
}

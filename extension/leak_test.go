package main

import (
	"testing"

	"github.com/kmodquery/kmodquery/test/leak"
)

// leakChecked runs the tests and fails if they leak goroutines.
type leakChecked struct{ *testing.M }

func (l leakChecked) Run() int { return leak.Run(l.M) }

package es

import (
	"testing"

	"github.com/kmodquery/kmodquery/test/leak"
	"github.com/kmodquery/kmodquery/test/standin"
)

func TestMain(m *testing.M) {
	standin.Main()
	leak.Main(m)
}

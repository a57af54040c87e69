package darwin

import (
	"os"
	"testing"

	"github.com/kmodquery/kmodquery/test/standin"
)

func TestMain(m *testing.M) {
	standin.Main()
	os.Exit(m.Run())
}

package darwin

import (
	"os"
	"testing"

	"github.com/kmodquery/kmodquery/test/leak"
	"github.com/kmodquery/kmodquery/test/standin"
)

func TestMain(m *testing.M) {
	standin.Main()
	if os.Getenv(watchesTheLog) != "" {
		watchTheLog()
	}
	leak.Main(m)
}

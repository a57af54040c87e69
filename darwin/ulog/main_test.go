package ulog

import (
	"os"
	"testing"

	"github.com/kmodquery/kmodquery/test/leak"
)

func TestMain(m *testing.M) {
	if os.Getenv(watchesTheLog) != "" {
		watchTheLog()
	}
	leak.Main(m)
}

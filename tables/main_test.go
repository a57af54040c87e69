package tables

import (
	"testing"

	"github.com/kmodquery/kmodquery/test/leak"
	"github.com/kmodquery/kmodquery/test/memdir"
)

func TestMain(m *testing.M) {
	memdir.Use()
	leak.Main(m)
}

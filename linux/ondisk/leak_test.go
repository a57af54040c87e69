//go:build linux

package ondisk

import (
	"testing"

	"github.com/kmodquery/kmodquery/test/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

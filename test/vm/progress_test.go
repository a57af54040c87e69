//go:build linux

package vm

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestProgress(t *testing.T) {
	var lines []string
	p := &progress{
		kernel: Kernel{Version: "6.1", Arch: AMD64},
		logf:   func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) },
	}
	for _, line := range []string{
		mark + "=== RUN   TestA\n", "    a_test.go:1: --- PASS: no (1s)\n",
		"half" + mark + "    --- PASS: TestA/sub (0.25s)\n", mark + "--- FAIL: TestA (1.50s)\n", mark + "FAIL\n",
	} {
		n, err := p.Write([]byte(line))
		require.NoError(t, err)
		require.Equal(t, len(line), n)
	}
	require.Equal(t, []string{"guest 6.1: PASS TestA/sub 0.25s", "guest 6.1: FAIL TestA 1.50s"}, lines)
}

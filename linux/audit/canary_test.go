//go:build linux

package audit

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/linux/audit/record"
	"github.com/kmodquery/kmodquery/linux/host"
)

// A call that tests the hooks of eBPF is no event, and a call that another process denies is.
func TestCanariesAreNoEvents(t *testing.T) {
	for value, want := range map[uint64]int{host.Canary(): 0, host.Canary() + 1: 1} {
		events := 0
		i := newIntake(testTranslator, time.Time{}, func(kmodquery.Delivery) { events++ })
		for line := range strings.Lines(withSerial(strings.Replace(deniedLines, "a2=1fb803bd106d", fmt.Sprintf("a2=%x", value), 1), 7)) {
			r, err := record.ParseLine(strings.TrimSuffix(line, "\n"))
			require.NoError(t, err)
			i.assembler.Add(r, 0, time.Now())
		}
		i.finish()
		require.Equal(t, want, events)
	}
}

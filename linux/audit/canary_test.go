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

// A call that tests the hooks of eBPF, also one of an earlier process, is no event and in no
// count. A call that another process denies, and one that was not denied, is an event.
func TestCanariesAreNoEvents(t *testing.T) {
	const earlier = 1<<63 | 7<<16
	for _, test := range []struct {
		name   string
		value  uint64
		exit   string
		events int
	}{
		{"of this process", host.NextCanary(), "-1", 0},
		{"another of this process", host.NextCanary(), "-1", 0},
		{"of an earlier process", earlier | 3, "-1", 0},
		{"of no process", earlier + 1<<16, "-1", 1},
		{"not denied", host.NextCanary(), "-8", 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := New(nil)
			s.LeaveOut(func() []uint64 { return []uint64{1 << 62, earlier} })
			events := 0
			i, err := s.intake(func(kmodquery.Delivery) { events++ })
			require.NoError(t, err)
			lines := strings.Replace(deniedLines, "a2=1fb803bd106d", fmt.Sprintf("a2=%x", test.value), 1)
			lines = strings.Replace(lines, "exit=-1", "exit="+test.exit, 1)
			for line := range strings.Lines(withSerial(lines, 7)) {
				s.health.Received.Add(1)
				r, err := record.ParseLine(strings.TrimSuffix(line, "\n"))
				require.NoError(t, err)
				i.assembler.Add(r, 0, time.Now())
			}
			i.finish()
			require.Equal(t, test.events, events)
			require.Equal(t, test.events > 0, s.Sensor().Received > 0)
		})
	}
}

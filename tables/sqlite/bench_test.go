package sqlite

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

// typical is an event as a load by file leaves it.
func typical(i int) kmodquery.Event {
	n := int64(i)
	event := full()
	event.Time, event.TimeNanos = 1_790_000_000+n/10, (1_790_000_000+n/10)*1_000_000_000
	event.EventName, event.Source = []string{"security_kernel_read_file", "module_load", "finit_module"}[i%3], "ebpf"
	event.LoadID, event.Name = fmt.Sprintf("boot-%d", i/3), fmt.Sprintf("module_%d", i%200)
	event.SHA256, event.Pid, event.ContainerID, event.Raw = fmt.Sprintf("%064x", i%200), &n, "", ""
	return event
}

func BenchmarkAppend(b *testing.B) {
	s := openStore(b, Options{})
	batch := make([]kmodquery.Event, 256)
	for i := range batch {
		batch[i] = typical(i)
	}
	b.ReportAllocs()
	for b.Loop() {
		require.NoError(b, s.Append(context.Background(), batch))
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*len(batch)), "µs/event")
}

func BenchmarkRead(b *testing.B) {
	const rows = 100_000
	s := openStore(b, Options{})
	batch := make([]kmodquery.Event, 1000)
	for i := 0; i < rows; i += len(batch) {
		for j := range batch {
			batch[j] = typical(i + j)
		}
		require.NoError(b, s.Append(context.Background(), batch))
	}
	status, err := s.Status(context.Background())
	require.NoError(b, err)
	b.Logf("%d bytes an event", status.Bytes/rows)

	window := []kmodquery.Condition{{Column: "time", Op: kmodquery.Greater, Values: []any{int64(1_790_000_000 + rows/10 - 100)}}}
	for name, f := range map[string]kmodquery.Filter{
		"all columns": {},
		"one column":  {Columns: []string{"name"}},
		"window":      {Conditions: window},
		"by name":     {Conditions: []kmodquery.Condition{{Column: "name", Op: kmodquery.Equal, Values: []any{"module_7"}}}},
		"loads in a window": {Conditions: append([]kmodquery.Condition{{Column: "event_name", Op: kmodquery.Equal,
			Values: []any{"security_kernel_read_file", "init_module"}}}, window...)},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				require.NoError(b, s.Events(context.Background(), f, func(*kmodquery.Event) error { return nil }))
			}
		})
	}
	b.Run("count", func(b *testing.B) {
		for b.Loop() {
			_, err := s.Count(context.Background(), kmodquery.Filter{})
			require.NoError(b, err)
		}
	})
}

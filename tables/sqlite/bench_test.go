package sqlite

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

// typical returns an event of a load by file.
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
		require.NoError(b, appendEvents(context.Background(), s, batch))
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*len(batch)), "µs/event")
}

// BenchmarkChecksums computes the sums of a row with and without its HMAC.
func BenchmarkChecksums(b *testing.B) {
	columns := kmodquery.EventColumns()
	event := typical(1)
	values := make([]any, len(columns))
	for i, column := range columns {
		values[i] = column.Value(&event)
	}
	for name, key := range map[string][]byte{"checksums": nil, "checksums and HMAC": make([]byte, keySize)} {
		b.Run(name, func(b *testing.B) {
			sums := newChecksummer(columns, key)
			for b.Loop() {
				sums.of(values, 0)
			}
		})
	}
}

// BenchmarkVerify checks the rows of one slice.
func BenchmarkVerify(b *testing.B) {
	s := filled(b, 10_000)
	for b.Loop() {
		_, err := s.verifySlice(context.Background())
		require.NoError(b, err)
	}
}

// BenchmarkAppendBeside compares storing one event in an idle store with storing it while
// others read the store all the time.
func BenchmarkAppendBeside(b *testing.B) {
	s := filled(b, 20_000)
	for _, readers := range []int{0, 1, 2} {
		b.Run(fmt.Sprintf("%d readers", readers), func(b *testing.B) {
			ctx, stop := context.WithCancel(context.Background())
			var reading sync.WaitGroup
			for range readers {
				reading.Go(func() {
					for ctx.Err() == nil {
						_ = s.Events(ctx, kmodquery.Filter{}, func(*kmodquery.Event) error { return nil })
					}
				})
			}
			for b.Loop() {
				require.NoError(b, appendEvents(context.Background(), s, []kmodquery.Event{typical(0)}))
			}
			stop()
			reading.Wait()
		})
	}
}

// filled returns a store with n events, a multiple of a thousand.
func filled(b *testing.B, rows int) *Store {
	s := openStore(b, Options{})
	batch := make([]kmodquery.Event, 1000)
	for i := 0; i < rows; i += len(batch) {
		for j := range batch {
			batch[j] = typical(i + j)
		}
		require.NoError(b, appendEvents(context.Background(), s, batch))
	}
	return s
}

func BenchmarkRead(b *testing.B) {
	const rows = 100_000
	s := filled(b, rows)
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

// BenchmarkReplay reads what a new recorder needs of a store with the events of one boot or of
// many.
func BenchmarkReplay(b *testing.B) {
	const rows = 50_000
	names := []string{"security_kernel_read_file", "module_load"}
	columns := []string{"time_nanos", "uptime", "event_name", "source", "load_id", "name", "result"}
	for _, boots := range []int{1, 100} {
		b.Run(fmt.Sprintf("%d boots", boots), func(b *testing.B) {
			s := openStore(b, Options{})
			batch := make([]kmodquery.Event, 1000)
			for i := 0; i < rows; i += len(batch) {
				for j := range batch {
					batch[j] = typical(i + j)
					batch[j].BootID = fmt.Sprintf("c3eb9f3b-6d1f-4d4b-8d4b-%012d", (i+j)*boots/rows)
				}
				require.NoError(b, appendEvents(context.Background(), s, batch))
			}
			for b.Loop() {
				require.NoError(b, s.Replay(context.Background(), batch[0].BootID, names, columns, rows/16, func(*kmodquery.Event) {}))
			}
		})
	}
}

//go:build linux

package ebpf

import (
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/bpf"
	"github.com/kmodquery/kmodquery/internal/progress"
	"github.com/kmodquery/kmodquery/linux/host"
)

// A stormRing is a ring buffer without a bound.
type stormRing[T any] struct {
	mu      sync.Mutex
	changed *sync.Cond
	items   []T
	flushed bool
	closed  bool
}

func newStormRing[T any]() *stormRing[T] {
	r := &stormRing[T]{}
	r.changed = sync.NewCond(&r.mu)
	return r
}

func (r *stormRing[T]) do(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
	r.changed.Broadcast()
}

func (r *stormRing[T]) put(item T) { r.do(func() { r.items = append(r.items, item) }) }

func (r *stormRing[T]) flush() error {
	r.do(func() { r.flushed = true })
	return nil
}

func (r *stormRing[T]) next() (item T, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		switch {
		case r.closed:
			return item, os.ErrClosed
		case len(r.items) > 0:
			item, r.items = r.items[0], r.items[1:]
			return item, nil
		case r.flushed:
			r.flushed = false
			return item, bpf.ErrFlushed
		}
		r.changed.Wait()
	}
}

// Two threads load modules while the records and the images are read concurrently.
func TestEveryLoadOfAStormHasItsImage(t *testing.T) {
	const loads = 500
	records, chunks := newStormRing[bpf.Record](), newStormRing[*bpf.Chunk]()
	var events []kmodquery.Event
	r := newReading(t)
	r.attempts.emit = func(d kmodquery.Delivery) {
		events = append(events, d.Event)
		r.attempts.acks.acked(d.Key)
	}
	i := &images{
		attempts: r.attempts, flush: chunks.flush, wake: records.flush, deaths: noDeaths(), loop: &progress.Loop{}, jobs: make(chan imageJob, maxJobs),
		files: &fileReader{timeout: imageTime},
		read: func(c *bpf.Chunk) error {
			next, err := chunks.next()
			if err == nil {
				*c = *next
			}
			return err
		},
	}
	r.want = i.want
	var reading, loading sync.WaitGroup
	reading.Go(i.run)
	for tid := range uint32(2) {
		loading.Go(func() {
			for n := range loads / 2 {
				image := fmt.Append(imageText(1, 20_000), tid, n)
				send := func(record bpf.Record) {
					record.Tid, record.Context, record.Boot = tid, time.Duration(n+1), host.SinceBoot()
					if record.Attempt != 0 {
						record.Attempt = record.Context
					}
					records.put(record)
				}
				for _, record := range processRecords {
					send(record)
				}
				send(record(bpf.LoadData, func(r *bpf.Record) { r.File = &bpf.File{ID: 2, IsModule: true} }))
				chunks.put(&bpf.Chunk{Attempt: time.Duration(n + 1), Tid: tid, Size: uint64(len(image)), Data: image[:9000], Position: at(uint64(n + 1)), RingSize: 10})
				chunks.put(&bpf.Chunk{Attempt: time.Duration(n + 1), Tid: tid, Size: uint64(len(image)), Offset: 9000, Data: image[9000:], Position: at(uint64(n + 1)), RingSize: 10})
				send(record(bpf.ImageTaken, func(r *bpf.Record) { r.Image = &bpf.Image{Size: uint64(len(image)), Sent: true} }))
				send(liveRecord)
				send(record(bpf.SystemCall, func(r *bpf.Record) { r.Call = &bpf.Call{Name: bpf.InitModule, HasArguments: true} }))
				if n%10 == 0 {
					time.Sleep(time.Millisecond)
				}
			}
		})
	}
	position := uint64(0)
	deadline := time.Now().Add(time.Minute)
	for len(events) < 3*loads && time.Now().Before(deadline) {
		record, err := records.next()
		if err != nil {
			require.NoError(t, r.drained(time.Now()))
			continue
		}
		position++
		require.NoError(t, r.reader.take(record, at(position), 10, time.Now()))
	}
	loading.Wait()
	chunks.do(func() { chunks.closed = true })
	reading.Wait()
	require.Len(t, events, 3*loads)
	for _, e := range events {
		require.NotEmpty(t, e.SHA256, "%s of %s: %s", e.EventName, e.LoadID, e.Missing)
	}
	require.Empty(t, r.attempts.byID)
	require.Zero(t, r.attempts.imageMemory)
	require.Empty(t, r.attempts.records.held)
}

//go:build linux

package ebpf

import (
	"errors"
	"fmt"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/bpf"
	"github.com/kmodquery/kmodquery/internal/source"
)

func newTampered(t *testing.T) (*run, *reading) {
	reading := newReading(t)
	return &run{source: &Source{health: source.New(kmodquery.SourceEBPF)}, reader: reading.reader}, reading
}

func TestFilteredRecordsAreReported(t *testing.T) {
	r, reading := newTampered(t)
	r.reportFiltered(nil, start)
	require.Empty(t, reading.events)
	r.reportFiltered([]bpf.Filtered{
		{CPU: 1, Kind: bpf.ModuleFree, First: 7, Last: 7}, {CPU: 0, Kind: bpf.ModuleLoad, First: 3, Last: 5},
	}, start)
	require.Len(t, reading.events, 1)
	e := reading.events[0]
	require.Equal(t, "sensor_tampered", e.EventName)
	require.Equal(t, "ebpf", e.Source)
	require.Equal(t, "4 records that the hooks sent did not arrive, although there was room for them, so code in the kernel filters them: "+
		"module_load 3 to 5 of processor 0, module_free 7 of processor 1", e.Reason)
	require.EqualValues(t, 4, r.source.Sensor().Filtered)

	// The next ones wait, and are one event.
	second := []bpf.Filtered{{Kind: bpf.ModuleLoad, First: 6, Last: 6}}
	r.reportFiltered(second, start.Add(checkEvery))
	r.reportFiltered(second, start.Add(filterPause-1))
	require.Len(t, reading.events, 1)
	require.EqualValues(t, 6, r.source.Sensor().Filtered)
	r.reportFiltered(nil, start.Add(filterPause))
	require.Len(t, reading.events, 2)
	require.Contains(t, reading.events[1].Reason, "2 records")

	// The end of a run does not wait.
	r.isLast = true
	r.reportFiltered(second, start.Add(filterPause))
	require.Len(t, reading.events, 3)

	r.reportFiltered([]bpf.Filtered{{Kind: bpf.ModuleLoad, First: 7, Last: math.MaxUint64}}, start.Add(filterPause))
	require.EqualValues(t, 7+math.MaxInt32, r.source.Sensor().Filtered)
}

func TestReasonNamesFewRanges(t *testing.T) {
	var many []bpf.Filtered
	for n := range uint64(maxRanges + 3) {
		many = append(many, bpf.Filtered{Kind: bpf.ProcessPath, First: 10 * n, Last: 10*n + 1})
	}
	require.Contains(t, filterReason(many), "38 records")
	require.Contains(t, filterReason(many), "path 150 to 151 of processor 0, 6 more")
}

func TestFailedHooksAreReportedOnce(t *testing.T) {
	r, reading := newTampered(t)
	r.reportFailure(bpf.ErrMoreHooks)
	require.Empty(t, reading.events, "that is no tampering")
	r.reportFailure(errors.New("attached programs are gone"))
	r.reportFailure(errors.New("ftrace is switched off"))
	require.Equal(t, []string{"sensor_tampered"}, reading.names())
	require.Equal(t, "attached programs are gone", reading.events[0].Reason)

	// Pins that are gone do not silence what is worse.
	r, reading = newTampered(t)
	r.reportFailure(bpf.ErrUnpinned)
	r.reportFailure(bpf.ErrUnpinned)
	require.Len(t, reading.events, 1)
	r.reportFailure(errors.New("attached programs are gone"))
	r.reportFailure(bpf.ErrUnpinned)
	require.Len(t, reading.events, 2)
}

// Root can change the maps again and again.
func TestChangesAreReportedOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, reading := newTampered(t)
		r.source.ready = func() {}
		r.sync, r.arming = r.source.health.NewBarrier(time.Second), &rearming{}
		r.hooks.check = func() error { return bpf.ErrChanged }
		for range 9 {
			r.checkHooks()
			time.Sleep(checkEvery)
		}
		require.Equal(t, []string{"sensor_tampered", "sensor_tampered"}, reading.names())
		require.NotZero(t, r.source.Sensor().GapEnd)
		require.NoError(t, r.source.doubt, "nothing is attached again")
	})
}

func TestADamagedRingOfImagesIsReported(t *testing.T) {
	r, reading := newTampered(t)
	r.sync, r.arming = r.source.health.NewBarrier(time.Second), &rearming{}
	r.hooks.check = func() error { return nil }
	r.source.doubt = fmt.Errorf("read the images: %w", bpf.ErrDamaged)
	r.checkHooks()
	r.checkHooks()
	require.Equal(t, []string{"sensor_tampered"}, reading.names())
	require.Equal(t, "read the images: the ring buffer is damaged", reading.events[0].Reason)
}

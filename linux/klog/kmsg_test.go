//go:build linux

package klog

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/linux/host"
	"github.com/kmodquery/kmodquery/linux/klog/printk"
)

func TestNextSequence(t *testing.T) {
	for _, test := range []struct {
		position string
		want     uint64
		ok       bool
	}{
		{"", 0, false}, {"boot 7", 8, true}, {"other 7", 0, false}, {"boot", 0, false}, {"boot x", 0, false}, {"boot -1", 0, false},
		{"boot 7 12:abc 0:", 8, true},
	} {
		next, ok := nextSequence(test.position, "boot")
		require.Equal(t, test.want, next, test.position)
		require.Equal(t, test.ok, ok, test.position)
	}
}

// runKmsg runs the source until it has read all records.
func runKmsg(t *testing.T, position string, records ...string) (*Kmsg, []kmodquery.Delivery) {
	t.Helper()
	kmsg := &fakeKmsg{t: t, records: records}
	s := NewKmsg(func(context.Context) (string, error) { return position, nil })
	s.open = kmsg.open
	var events []kmodquery.Delivery
	ctx, cancel := context.WithCancel(t.Context())
	require.NoError(t, s.Run(ctx, cancel, func(d kmodquery.Delivery) { events = append(events, d) }))
	return s, events
}

// Root can write records as fast as they are read.
func TestKmsgWithoutAnEndIsReadInParts(t *testing.T) {
	fd, err := unix.Open("/dev/zero", unix.O_RDONLY, 0)
	require.NoError(t, err)
	log, err := newKmsgLog(fd)
	require.NoError(t, err)
	defer log.close()
	records := 0
	require.NoError(t, log.drain(nil, func(_ printk.Record, err error) {
		require.Error(t, err)
		records++
	}))
	require.Equal(t, maxDrain, records)
	require.False(t, log.isDrained)
}

func TestKmsgCountsOverwrittenRecords(t *testing.T) {
	s, events := runKmsg(t, "", "6,100,1000,-;the oldest record\n", "6,101,2000,-;a: module loaded\n", "6,105,3000,-;b: module loaded\n", "no record\n")
	require.Len(t, events, 2)
	boot, err := host.BootID()
	require.NoError(t, err)
	require.Equal(t, boot+" 105", events[1].Position)
	sensor := s.Sensor()
	require.EqualValues(t, 3, sensor.Lost, "records before the oldest are not counted")
	require.EqualValues(t, 4, sensor.Received)
	require.EqualValues(t, 1, sensor.DecodeErrors)
	require.EqualValues(t, 2, sensor.EnrichErrors)

	s, events = runKmsg(t, boot+" 105", "6,101,2000,-;a: module loaded\n", "6,105,3000,-;b: module loaded\n", "6,108,4000,-;c: module loaded\n")
	require.Len(t, events, 1)
	require.Equal(t, "c", events[0].Event.Name)
	require.EqualValues(t, 2, s.Sensor().Lost)
	require.EqualValues(t, 1, s.Sensor().Received)
}

// Another source watched when the records were overwritten that are not needed.
func TestKmsgCountsNoLossFromBeforeItsBound(t *testing.T) {
	boot, err := host.BootID()
	require.NoError(t, err)
	var monotonic unix.Timespec
	require.NoError(t, unix.ClockGettime(unix.CLOCK_MONOTONIC, &monotonic))
	kmsg := &fakeKmsg{t: t, records: []string{
		"6,800000,1000,-;the oldest record\n", fmt.Sprintf("6,800004,%d,-;one of now\n", monotonic.Nano()/1000),
	}}
	s := NewKmsg(func(context.Context) (string, error) { return boot + " 105", nil })
	s.open = kmsg.open
	s.Backfill(time.Now().Add(-time.Second), time.Time{})
	ctx, cancel := context.WithCancel(t.Context())
	require.NoError(t, s.Run(ctx, cancel, func(kmodquery.Delivery) {}))
	require.EqualValues(t, 2, s.Sensor().Received)
	require.EqualValues(t, 3, s.Sensor().Lost)
}

func TestKmsgUsesOnlyTheKernelsRecords(t *testing.T) {
	s, events := runKmsg(t, "",
		"12,1,1,-;forged: module loaded\n", "14,2,1,-;kernel: forged: module loaded\n", "30,3,1,-;systemd[1]: Inserted module 'forged'\n",
		"4,4,1,-;Inserted module 'forged'\n", "4,5,1,-;x\\x0aforged: module loaded\n")
	require.Empty(t, events)
	require.EqualValues(t, 5, s.Sensor().Received)
}

func TestKmsgIsUnavailableWithoutItsDevice(t *testing.T) {
	s := NewKmsg(nil)
	s.path = filepath.Join(t.TempDir(), "kmsg")
	err := s.Run(t.Context(), func() { t.Error("it is not ready") }, func(kmodquery.Delivery) {})
	require.ErrorIs(t, err, kmodquery.ErrNotSupported)
	require.ErrorContains(t, err, "there is no ")
	require.Equal(t, kmodquery.StateUnavailable, s.Sensor().State)
	require.NoError(t, s.Sync(t.Context()), "it is not running")

	for _, other := range []string{"/dev/null", "/proc/self/status"} {
		s := NewKmsg(nil)
		s.path = other
		err := s.Run(t.Context(), func() { t.Error("it is not ready") }, func(kmodquery.Delivery) {})
		require.ErrorIs(t, err, kmodquery.ErrNotSupported)
		require.ErrorContains(t, err, other+" is not the kernel's log")
	}
}

func TestRunFailsIfThePositionCannotBeRead(t *testing.T) {
	broken := errors.New("disk full")
	s := NewKmsg(func(context.Context) (string, error) { return "", broken })
	err := s.Run(t.Context(), func() {}, func(kmodquery.Delivery) {})
	require.ErrorIs(t, err, broken)
	require.Equal(t, kmodquery.StateFailed, s.Sensor().State)
}

// It reads the real log, whatever that contains.
func TestKmsgReadsTheHostsLog(t *testing.T) {
	s := NewKmsg(nil)
	ctx, cancel := context.WithCancel(t.Context())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- s.Run(ctx, func() { close(ready) }, func(kmodquery.Delivery) {}) }()
	select {
	case <-ready:
	case err := <-ended:
		cancel()
		t.Skipf("the kernel's log cannot be read here: %v", err)
	}
	require.NoError(t, s.Sync(t.Context()))
	sensor := s.Sensor()
	require.Equal(t, kmodquery.StateActive, sensor.State)
	require.Equal(t, `["/dev/kmsg"]`, sensor.Hooks)
	require.NotZero(t, sensor.Received)
	require.Zero(t, sensor.DecodeErrors)
	cancel()
	require.NoError(t, <-ended)
	require.Equal(t, kmodquery.StateStandby, s.Sensor().State)
}

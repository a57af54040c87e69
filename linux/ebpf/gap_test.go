//go:build linux

package ebpf

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/kmodquery/kmodquery/bpf"
	"github.com/kmodquery/kmodquery/linux/host"

	"github.com/stretchr/testify/require"
)

func TestUnwatchedSince(t *testing.T) {
	booted, now := start, start.Add(time.Hour)
	for _, test := range []struct {
		name    string
		watched time.Time
		want    time.Time
	}{
		{"no hooks were attached", time.Time{}, booted},
		{"hooks were attached before the boot", booted.Add(-time.Minute), booted},
		{"hooks were attached in this boot", booted.Add(time.Minute), booted.Add(time.Minute)},
		{"just now", now, now},
		{"the clock was set back since", now.Add(1), booted},
	} {
		t.Run(test.name, func(t *testing.T) {
			require.Equal(t, test.want, unwatchedSince(booted, test.watched, now))
		})
	}
}

func TestGapIsRecordedWithoutHooks(t *testing.T) {
	began := time.Now()
	booted := began.Add(-host.SinceBoot())
	watched := began.Add(-time.Second)
	for name, test := range map[string]struct {
		watched func() time.Time
		want    time.Time
	}{
		"nothing is stored":      {nil, booted},
		"no hooks were attached": {func() time.Time { return time.Time{} }, booted},
		"by an earlier process":  {func() time.Time { return watched }, watched},
	} {
		t.Run(name, func(t *testing.T) {
			s := New(Options{Watched: test.watched})
			require.Zero(t, s.Sensor().GapStart)
			require.Zero(t, s.Sensor().GapEnd)
			s.noteGap(false)
			require.InDelta(t, test.want.Unix(), s.Sensor().GapStart, 1) // the boot time is computed again
			require.GreaterOrEqual(t, s.Sensor().GapEnd, began.Unix())
			require.LessOrEqual(t, s.Sensor().GapEnd, time.Now().Unix())
		})
	}
}

// A later gap starts at the last check that found the hooks attached.
func TestKeepWatchIsCalledWhileHooksAreAttached(t *testing.T) {
	var signs []time.Duration
	s := New(Options{KeepWatch: func(at time.Time) { signs = append(signs, at.Sub(start)) }})
	var wrong error
	live := liveness{check: func() error { return wrong }}
	look := func(at time.Duration, isAsked bool) {
		if live.failure(start.Add(at), isAsked) == nil {
			s.keepWatch(live.last)
		}
	}
	look(0, false)
	look(time.Second/2, true) // too soon
	look(4*time.Second, true)
	look(13*time.Second, false)
	look(14*time.Second, false)
	wrong = errors.New("the hooks were detached")
	look(24*time.Second, false)
	require.Equal(t, []time.Duration{0, 4 * time.Second, 14 * time.Second}, signs)

	s = New(Options{})
	s.keepWatch(start)
}

// The hooks stay pinned while ftrace is switched off.
func TestAFailedCheckBeginsAGap(t *testing.T) {
	watched := time.Now().Add(-5 * time.Second)
	s := New(Options{Watched: func() time.Time { return watched }})
	s.noteGap(true)
	require.Zero(t, s.Sensor().GapEnd)
	r := run{source: s, reader: newReading(t).reader, arming: &rearming{}, sync: s.health.NewBarrier(time.Second), hooks: liveness{check: func() error { return errors.New("ftrace is switched off") }}}
	r.checkHooks()
	s.noteGap(true)
	require.Equal(t, watched.Unix(), s.Sensor().GapStart)
	require.NotZero(t, s.Sensor().GapEnd)
	s.health.SetGap(time.Unix(0, 0), time.Unix(0, 0))
	s.noteGap(true)
	require.Zero(t, s.Sensor().GapEnd, "it is noted once")
}

// A recorder was killed before it had read the kernel's log of a gap.
func TestAGapIsKeptUntilItsLogWasRead(t *testing.T) {
	now := time.Now()
	booted := now.Add(-host.SinceBoot())
	stored := func(start, end time.Time) Options {
		return Options{
			Watched: func() time.Time { return now.Add(-time.Second) },
			Gap:     func() (time.Time, time.Time) { return start, end },
		}
	}
	for name, test := range map[string]struct {
		options    Options
		wereThere  bool
		start, end time.Time
	}{
		"hooks were attached":            {options: stored(time.Time{}, time.Time{}), wereThere: true},
		"of an earlier boot":             {options: stored(booted.Add(-2*time.Minute), booted.Add(-time.Minute)), wereThere: true},
		"hooks were attached after it":   {stored(now.Add(-3*time.Second), now.Add(-2*time.Second)), true, now.Add(-3 * time.Second), now.Add(-2 * time.Second)},
		"no hooks were attached again":   {stored(now.Add(-3*time.Second), now.Add(-2*time.Second)), false, now.Add(-3 * time.Second), now},
		"it began before the boot":       {stored(booted.Add(-time.Minute), now), true, booted, now},
		"the stored one is of last boot": {stored(booted.Add(-2*time.Minute), booted.Add(-time.Minute)), false, now.Add(-time.Second), now},
	} {
		t.Run(name, func(t *testing.T) {
			var kept int
			test.options.KeepGap = func(time.Time, time.Time) { kept++ }
			s := New(test.options)
			s.noteGap(test.wereThere)
			if test.end.IsZero() {
				require.Zero(t, s.Sensor().GapStart)
				require.Zero(t, s.Sensor().GapEnd)
				require.Zero(t, kept)
				return
			}
			require.InDelta(t, test.start.Unix(), s.Sensor().GapStart, 1)
			require.InDelta(t, test.end.Unix(), s.Sensor().GapEnd, 1)
			require.Equal(t, 1, kept)
		})
	}
}

// The programs are pinned, and ftrace is off when the process starts and on later.
func TestPinnedHooksThatDidNotRunLeaveAGap(t *testing.T) {
	watched := time.Now().Add(-5 * time.Second)
	s := New(Options{Watched: func() time.Time { return watched }})
	s.openPrograms = func(context.Context, Options, bool) (*bpf.Programs, error) {
		return nil, fmt.Errorf("attach eBPF programs: %w", bpf.ErrFtraceOff)
	}
	require.ErrorIs(t, s.Run(t.Context(), nil, nil), bpf.ErrFtraceOff)
	s.noteGap(true) // as the next Run does
	require.Equal(t, watched.Unix(), s.Sensor().GapStart)
	require.NotZero(t, s.Sensor().GapEnd)
}

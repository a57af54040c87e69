//go:build linux

package ebpf

import (
	"errors"
	"testing"
	"time"

	"github.com/kmodquery/kmodquery/linux/host"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery/bpf"
)

func TestUnwatchedSince(t *testing.T) {
	booted, now := start, start.Add(time.Hour)
	for _, test := range []struct {
		name    string
		watched time.Time
		want    time.Time
	}{
		{"nobody has watched", time.Time{}, booted},
		{"somebody has, before the boot", booted.Add(-time.Minute), booted},
		{"somebody has, in this boot", booted.Add(time.Minute), booted.Add(time.Minute)},
		{"just now", now, now},
		{"the clock was set back since", now.Add(1), booted},
	} {
		t.Run(test.name, func(t *testing.T) {
			require.Equal(t, test.want, unwatchedSince(booted, test.watched, now))
		})
	}
}

func TestGapIsNotedWhereNoHooksWere(t *testing.T) {
	began := time.Now()
	booted := began.Add(-host.SinceBoot())
	watched := began.Add(-time.Second)
	for name, test := range map[string]struct {
		watched func() time.Time
		want    time.Time
	}{
		"nobody remembers":          {nil, booted},
		"nobody has watched":        {func() time.Time { return time.Time{} }, booted},
		"an earlier process did so": {func() time.Time { return watched }, watched},
	} {
		t.Run(name, func(t *testing.T) {
			s := New(Options{Watched: test.watched})
			require.Zero(t, s.Sensor().GapStart)
			require.Zero(t, s.Sensor().GapEnd)
			s.noteGap(new(bpf.Programs))
			require.InDelta(t, test.want.Unix(), s.Sensor().GapStart, 1) // the boot's time is reckoned anew
			require.GreaterOrEqual(t, s.Sensor().GapEnd, began.Unix())
			require.LessOrEqual(t, s.Sensor().GapEnd, time.Now().Unix())
		})
	}
}

// TestASignIsLeftOfHooksThatAreWell looks at hooks as Run does. What is said of a
// gap later begins with the last look that found them well, not after it.
func TestASignIsLeftOfHooksThatAreWell(t *testing.T) {
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
	wrong = errors.New("somebody detached the hooks")
	look(24*time.Second, false)
	require.Equal(t, []time.Duration{0, 4 * time.Second, 14 * time.Second}, signs)

	s = New(Options{})
	s.keepWatch(start)
}

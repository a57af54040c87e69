//go:build linux

package ebpf

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestHooksAreCheckedPeriodically(t *testing.T) {
	wrong := errors.New("wrong")
	for _, test := range []struct {
		name    string
		since   time.Duration
		isAsked bool
		want    error
	}{
		{"at once", 0, false, nil},
		{"at once, asked", 0, true, nil},
		{"before the least time, asked", checkGap - 1, true, nil},
		{"after the least time", checkGap, false, nil},
		{"after the least time, asked", checkGap, true, wrong},
		{"before it is due", checkEvery - 1, false, nil},
		{"when it is due", checkEvery, false, wrong},
		{"when the clock went back", -time.Hour, true, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			looks := 0
			c := liveness{check: func() error { looks++; return wrong }}
			require.ErrorIs(t, c.failure(start, false), wrong, "the first look is at the beginning")
			require.Equal(t, start.Add(checkEvery), c.due())
			require.Equal(t, test.want, c.failure(start.Add(test.since), test.isAsked))
			if test.want != nil {
				require.Equal(t, start.Add(test.since).Add(checkEvery), c.due())
				require.Equal(t, 2, looks)
			}
		})
	}
}

// A process that is killed cannot report records that are missing.
func TestMissingRecordsAreJudgedSoon(t *testing.T) {
	isUrgent, looks := false, 0
	c := liveness{check: func() error { looks++; return nil }, isUrgent: func() bool { return isUrgent }}
	require.NoError(t, c.failure(start, false))
	require.NoError(t, c.failure(start.Add(checkGap), false))
	require.Equal(t, 1, looks)
	isUrgent = true
	require.Equal(t, start.Add(checkGap), c.due())
	require.NoError(t, c.failure(start.Add(checkGap), false))
	require.Equal(t, 2, looks)
}

func TestMarkUnreliableIgnoresStoppedSource(t *testing.T) {
	s := New(Options{})
	s.MarkUnreliable("a module came unseen")
	require.NoError(t, s.cause)
	require.Equal(t, "standby", s.Sensor().State)
}

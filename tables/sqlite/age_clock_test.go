package sqlite

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

// A clock stands for a host's clocks: a wall clock that can be set, and the elapsed time.
type clock struct {
	wall    time.Time
	elapsed time.Duration
}

func (c *clock) pass(d time.Duration) { c.wall, c.elapsed = c.wall.Add(d), c.elapsed+d }

func (c *clock) options(maxAge time.Duration) Options {
	return Options{
		MaxAge: maxAge, Now: func() time.Time { return c.wall },
		Elapsed: func() time.Duration { return c.elapsed },
	}
}

func TestAgeClockIgnoresJumpsAhead(t *testing.T) {
	const day, year = 24 * time.Hour, 365 * 24 * time.Hour
	start := time.Unix(1_790_000_000, 0)
	type step struct{ real, leap time.Duration }
	for name, test := range map[string]struct {
		steps []step
		want  time.Duration // how far the present has gone, by the clock for ages
	}{
		"no jump":                    {[]step{{day, 0}, {day, 0}}, 2 * day},
		"a small jump":               {[]step{{day, 8 * day}}, 9 * day},
		"a jump ahead":               {[]step{{time.Hour, 10 * year}}, time.Hour},
		"and back":                   {[]step{{time.Hour, 10 * year}, {time.Hour, -10 * year}}, 2 * time.Hour},
		"a jump that lasts":          {[]step{{0, 10 * year}, {jumpTrustDelay, 0}}, jumpTrustDelay + 10*year},
		"two jumps":                  {[]step{{0, 10 * year}, {jumpTrustDelay / 2, 10 * year}, {jumpTrustDelay / 2, 10 * year}}, jumpTrustDelay},
		"a step back":                {[]step{{time.Hour, -10 * year}}, time.Hour - 10*year},
		"back and forth":             {[]step{{0, -10 * year}, {time.Hour, 10 * year}}, time.Hour - 10*year},
		"back, forth, and some time": {[]step{{0, -10 * year}, {time.Hour, 10 * year}, {jumpTrustDelay, 0}}, time.Hour + jumpTrustDelay},
	} {
		t.Run(name, func(t *testing.T) {
			age, wall, elapsed := newAgeClock(lockState{}, 90*day), start, time.Duration(0)
			require.Equal(t, start, age.now(wall, elapsed), "the first time is accepted")
			var now time.Time
			for _, step := range test.steps {
				elapsed += step.real
				wall = wall.Add(step.real + step.leap)
				now = age.now(wall, elapsed)
			}
			require.Equal(t, start.Add(test.want), now)
		})
	}
}

// A clock that is years ahead while events are stored and then corrected deletes no event,
// not even across restarts.
func TestAClockThatJumpsDeletesNothing(t *testing.T) {
	const day, year = 24 * time.Hour, 365 * 24 * time.Hour
	for name, restart := range map[string]bool{"in one process": false, "with restarts": true} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			c := &clock{wall: time.Unix(1_790_000_000, 0)}
			s, err := Open(context.Background(), dir, c.options(90*day))
			require.NoError(t, err)
			defer func() { require.NoError(t, s.Close()) }()
			want := 0
			tell := func() {
				t.Helper()
				if restart {
					require.NoError(t, s.Close())
					c.elapsed = 0
					s, err = Open(context.Background(), dir, c.options(90*day))
					require.NoError(t, err)
				}
				c.pass(time.Minute)
				require.NoError(t, appendEvents(context.Background(), s, []kmodquery.Event{{Time: c.wall.Unix()}}))
				require.NoError(t, s.Expire(context.Background()))
				want++
				require.Len(t, read(t, s, kmodquery.Filter{}), want)
			}
			tell()
			for range 5 {
				c.wall = c.wall.Add(20 * year)
				tell()
				tell()
				c.wall = c.wall.Add(-20 * year)
				tell()
				c.wall = c.wall.Add(-20 * year)
				tell()
				c.wall = c.wall.Add(20 * year)
				tell()
			}
			// The correct time advances until every event is too old.
			for range 200 {
				c.pass(day)
				require.NoError(t, s.Expire(context.Background()))
			}
			kept := read(t, s, kmodquery.Filter{})
			require.Less(t, len(kept), want)
		})
	}
}

// A store of an earlier version has kept no time. The time of its last event replaces it.
func TestTheLastEventStartsTheAgeClock(t *testing.T) {
	dir := t.TempDir()
	c := &clock{wall: time.Unix(1_790_000_000, 0)}
	s, err := Open(context.Background(), dir, Options{})
	require.NoError(t, err)
	require.NoError(t, appendEvents(context.Background(), s, []kmodquery.Event{{Time: c.wall.Unix()}}))
	require.NoError(t, s.Close())

	c.wall = c.wall.Add(20 * 365 * 24 * time.Hour)
	s = openIn(t, dir, c.options(90*24*time.Hour))
	require.NoError(t, s.Expire(context.Background()))
	require.Len(t, read(t, s, kmodquery.Filter{}), 1)
	c.pass(jumpTrustDelay)
	require.NoError(t, s.Expire(context.Background()))
	require.Empty(t, read(t, s, kmodquery.Filter{}))
}

// A process need not run for six hours to accept a jump, such as that of a host that was
// switched off for months: the time of all processes counts.
func TestAJumpIsAcceptedAfterManyShortProcesses(t *testing.T) {
	const day, year = 24 * time.Hour, 365 * 24 * time.Hour
	dir := t.TempDir()
	c := &clock{wall: time.Unix(1_790_000_000, 0)}
	run := func(d time.Duration) (kept int) {
		t.Helper()
		c.elapsed = 0
		s, err := Open(context.Background(), dir, c.options(90*day))
		require.NoError(t, err)
		require.NoError(t, s.Expire(context.Background()))
		kept = len(read(t, s, kmodquery.Filter{}))
		if kept == 0 {
			require.NoError(t, appendEvents(context.Background(), s, []kmodquery.Event{{Time: c.wall.Unix()}}))
		}
		c.pass(d)
		require.NoError(t, s.Close())
		return kept
	}
	require.Equal(t, 0, run(time.Minute))
	c.wall = c.wall.Add(year)
	for range 6 {
		require.Equal(t, 1, run(time.Hour))
		c.wall = c.wall.Add(10 * day) // the host is switched off
	}
	require.Equal(t, 0, run(time.Minute))

	c.wall = c.wall.Add(20 * year)
	for range 5 {
		require.Equal(t, 1, run(time.Hour))
	}
	c.wall = c.wall.Add(-10 * year)
	for range 6 {
		require.Equal(t, 1, run(time.Hour), "a clock that jumps back is not steady")
	}
	require.Equal(t, 0, run(time.Hour))
}

// The bounds are checked every minute even if the clock steps back by years.
func TestExpiryContinuesAfterAClockStepsBack(t *testing.T) {
	c := &clock{wall: time.Unix(1_790_000_000, 0)}
	o := c.options(0)
	o.MaxEvents = 1
	s := openStore(t, o)
	one := make([]kmodquery.Event, 1)
	require.NoError(t, appendEvents(context.Background(), s, one))
	c.wall = c.wall.Add(-10 * 365 * 24 * time.Hour)
	for range 5 {
		require.NoError(t, appendEvents(context.Background(), s, one))
		c.pass(expiryInterval)
	}
	require.Len(t, read(t, s, kmodquery.Filter{}), 2)
}

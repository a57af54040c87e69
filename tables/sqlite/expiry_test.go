package sqlite

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

func TestExpireAppliesTheBounds(t *testing.T) {
	now := time.Unix(1000, 0)
	times := []int64{100, 990, 500, 999, 2000, 1000} // as a clock that steps leaves them
	for name, test := range map[string]struct {
		options Options
		want    []int64
	}{
		"no bound":                  {Options{}, []int64{6, 5, 4, 3, 2, 1}},
		"age":                       {Options{MaxAge: 10 * time.Second}, []int64{6, 5, 4, 3, 2}},
		"count":                     {Options{MaxEvents: 2}, []int64{6, 5}},
		"count not reached":         {Options{MaxEvents: 6}, []int64{6, 5, 4, 3, 2, 1}},
		"age and count":             {Options{MaxAge: 10 * time.Second, MaxEvents: 3}, []int64{6, 5, 4}},
		"age longer than the clock": {Options{MaxAge: 24 * time.Hour}, []int64{6, 5, 4, 3, 2, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			test.options.Now = func() time.Time { return now }
			s := openStore(t, test.options)
			events := make([]kmodquery.Event, len(times))
			for i := range events {
				events[i].Time = times[i]
			}
			require.NoError(t, appendEvents(context.Background(), s, events))
			require.NoError(t, s.Expire(context.Background()))
			require.Equal(t, test.want, eids(read(t, s, kmodquery.Filter{})))
		})
	}
}

// Events that were stored while the clock was ahead are as old as the next one. Without an
// older one after them they stay.
func TestEventsAheadOfTimeDoNotKeepOlderOnes(t *testing.T) {
	const ahead, old, young = 1 << 31, 100, 999_000
	for name, test := range map[string]struct {
		times []int64
		want  int // events that stay, the last ones
	}{
		"one at the head":           {[]int64{ahead, old, old, young}, 1},
		"between":                   {[]int64{old, ahead, old, young}, 1},
		"more than a chunk":         {append(slices.Repeat([]int64{ahead}, expiryChunk+1), old, young), 1},
		"before a young one":        {[]int64{old, ahead, young, old}, 3},
		"at the end":                {[]int64{old, ahead}, 1},
		"alone":                     {slices.Repeat([]int64{ahead}, 3), 3},
		"a little ahead, as by NTP": {[]int64{1_000_100, old, young}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t, Options{MaxAge: time.Hour, Now: func() time.Time { return time.Unix(1_000_000, 0) }})
			events := make([]kmodquery.Event, len(test.times))
			for i := range events {
				events[i].Time = test.times[i]
			}
			require.NoError(t, appendEvents(context.Background(), s, events))
			require.NoError(t, s.Expire(context.Background()))
			kept, err := s.Count(context.Background(), kmodquery.Filter{})
			require.NoError(t, err)
			require.EqualValues(t, test.want, kept)
		})
	}
}

func TestExpireDeletesManyChunks(t *testing.T) {
	s := openStore(t, Options{MaxEvents: 1})
	require.NoError(t, appendEvents(context.Background(), s, make([]kmodquery.Event, 2*expiryChunk+2)))
	require.NoError(t, s.Expire(context.Background()))
	require.Equal(t, []int64{2*expiryChunk + 2}, eids(read(t, s, kmodquery.Filter{})))
}

func TestExpireByAgeDeletesManyChunks(t *testing.T) {
	s := openStore(t, Options{MaxAge: time.Second, Now: func() time.Time { return time.Unix(1000, 0) }})
	events := make([]kmodquery.Event, 2*expiryChunk+2)
	events[2*expiryChunk].Time = 1000
	require.NoError(t, appendEvents(context.Background(), s, events))
	require.NoError(t, s.Expire(context.Background()))
	require.Equal(t, []int64{2*expiryChunk + 2, 2*expiryChunk + 1}, eids(read(t, s, kmodquery.Filter{})))
}

func TestAppendExpiresEventsPeriodically(t *testing.T) {
	now := time.Unix(1000, 0)
	s := openStore(t, Options{MaxEvents: 2, Now: func() time.Time { return now }})
	rows := func() int64 {
		n, err := s.Count(context.Background(), kmodquery.Filter{})
		require.NoError(t, err)
		return n
	}
	one := make([]kmodquery.Event, 1)
	for range 5 {
		require.NoError(t, appendEvents(context.Background(), s, one))
	}
	require.EqualValues(t, 5, rows(), "the bounds were checked within a minute")

	now = now.Add(expiryInterval)
	require.NoError(t, appendEvents(context.Background(), s, one))
	require.EqualValues(t, 3, rows(), "the two that stay and the new one")

	require.NoError(t, appendEvents(context.Background(), s, make([]kmodquery.Event, expiryEvents)))
	require.EqualValues(t, expiryEvents+3, rows(), "many events were appended without a check")
	for range 3 {
		require.NoError(t, appendEvents(context.Background(), s, one))
	}
	require.EqualValues(t, 3, rows(), "each batch deletes one chunk until the bounds hold")
}

// An old event between younger ones stays, so only the first EID shows that events expire.
func TestTheFirstEIDShowsExpiryByAge(t *testing.T) {
	s := openStore(t, Options{MaxAge: time.Hour, Now: func() time.Time { return time.Unix(1_000_000, 0) }})
	var events []kmodquery.Event
	for _, at := range []int64{900, 1_000_000, 500, 1_000_000} {
		events = append(events, kmodquery.Event{Time: at})
	}
	require.NoError(t, appendEvents(context.Background(), s, events))
	before := statusOf(t, s)
	require.NoError(t, s.Expire(context.Background()))
	after := statusOf(t, s)
	require.Equal(t, before.OldestTime, after.OldestTime)
	require.Equal(t, []int64{1, 2}, []int64{before.FirstEID, after.FirstEID})
}

package source

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

func TestARoundServesTheCallsThatWaitAtItsBeginning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := New(kmodquery.SourceKmsg)
		h.Started(nil, "", nil)
		b := h.NewBarrier(time.Second)
		b.Begin()
		require.Zero(t, b.Began(), "no call waits")

		first, second := syncing(t.Context(), h), syncing(t.Context(), h)
		b.Begin()
		began := b.Began()
		require.Equal(t, time.Now(), began)
		time.Sleep(time.Millisecond)
		later := syncing(t.Context(), h)
		b.Begin()
		require.Equal(t, began, b.Began(), "the round is still in progress")
		b.Release()
		require.NoError(t, <-first)
		require.NoError(t, <-second)
		synctest.Wait()
		require.Empty(t, later, "this call came during the round")

		b.Begin()
		require.Equal(t, time.Now(), b.Began())
		b.Release()
		require.NoError(t, <-later)
		b.Release()
		require.Zero(t, b.Began())

		b.BeginLast()
		began = b.Began()
		require.Equal(t, time.Now(), began, "it needs no call")
		time.Sleep(time.Millisecond)
		b.BeginLast()
		require.Equal(t, began, b.Began())
	})
}

func TestARoundEndsWhenTheSourceIsQuietAndAtItsLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := New(kmodquery.SourceKmsg)
		h.Started(nil, "", nil)
		b := h.NewBarrier(time.Second)
		unknown, now := time.Time{}, time.Now()
		require.Zero(t, b.Due(now))
		require.False(t, b.IsDue(now), "there is no round")

		done := syncing(t.Context(), h)
		b.Begin()
		limit := now.Add(time.Second)
		require.Equal(t, limit, b.Due(unknown))
		require.Equal(t, limit, b.Due(limit.Add(time.Hour)))
		require.Equal(t, now.Add(time.Millisecond), b.Due(now.Add(time.Millisecond)))
		require.True(t, b.IsDue(now))
		require.False(t, b.IsDue(now.Add(time.Millisecond)))
		require.False(t, b.IsDue(unknown))
		time.Sleep(time.Second)
		require.True(t, b.IsDue(unknown))
		b.Release()
		require.NoError(t, <-done)
	})
}

func TestEarliest(t *testing.T) {
	zero, one, two := time.Time{}, time.Unix(1, 0), time.Unix(2, 0)
	require.Equal(t, one, Earliest(zero, two, one, zero))
	require.Equal(t, two, Earliest(two, zero))
	require.Zero(t, Earliest(zero))
	require.Zero(t, Earliest())
}

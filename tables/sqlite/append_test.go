package sqlite

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

func TestAFailedBatchIsCountedAndWritesNothing(t *testing.T) {
	s := openStore(t, Options{})
	require.NoError(t, appendEvents(context.Background(), s, make([]kmodquery.Event, 1)))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	batch := make([]kmodquery.Event, 2)
	require.ErrorIs(t, appendEvents(ctx, s, batch), context.Canceled)
	require.Equal(t, []int64{0, 0}, eids(batch))
	status, err := s.Status(context.Background())
	require.NoError(t, err)
	require.EqualValues(t, 1, status.Errors)
	require.EqualValues(t, 1, status.Rows)
}

func TestEIDsAreNeverReused(t *testing.T) {
	dir := t.TempDir()
	clock := time.Unix(1000, 0)
	o := Options{MaxAge: time.Second, Now: func() time.Time { return clock }}
	s, err := Open(context.Background(), dir, o)
	require.NoError(t, err)
	require.NoError(t, appendEvents(context.Background(), s, []kmodquery.Event{{Time: 1}, {Time: 2}}))
	require.NoError(t, s.Expire(context.Background()))
	require.Empty(t, read(t, s, kmodquery.Filter{}))
	require.NoError(t, s.Close())

	again := []kmodquery.Event{{Time: 1000}}
	require.NoError(t, appendEvents(context.Background(), openIn(t, dir, o), again))
	require.EqualValues(t, 3, again[0].EID)
}

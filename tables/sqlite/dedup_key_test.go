package sqlite

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

func TestDedupKeysAreStoredWithTheirEvents(t *testing.T) {
	keyed := func(source, key string) kmodquery.Delivery {
		return kmodquery.Delivery{Event: kmodquery.Event{Source: source}, Key: key}
	}
	dir := t.TempDir()
	ctx := context.Background()
	s := openIn(t, dir, Options{})
	keys := func() []string {
		t.Helper()
		list, err := s.Keys(ctx, "ebpf")
		require.NoError(t, err)
		return list
	}
	require.Empty(t, keys())
	require.NoError(t, s.Append(ctx, []kmodquery.Delivery{
		keyed("ebpf", "1_3"), keyed("ebpf", "1_1"), keyed("audit", "9"), keyed("ebpf", ""), keyed("ebpf", "1_2c"),
	}))
	require.ElementsMatch(t, []string{"1_1", "1_2c", "1_3"}, keys())

	refused := keyed("ebpf", "1_5")
	refused.Event.Name = "refused"
	_, err := s.writer.Exec("CREATE TRIGGER refuse BEFORE INSERT ON events WHEN new.name = 'refused' BEGIN SELECT RAISE(ABORT, 'no'); END")
	require.NoError(t, err)
	require.Error(t, s.Append(ctx, []kmodquery.Delivery{keyed("ebpf", "1_4"), refused}))
	require.Len(t, keys(), 3)

	// A position makes the keys before it obsolete.
	positioned := keyed("ebpf", "1_6")
	positioned.Position = "1_2"
	require.NoError(t, s.Append(ctx, []kmodquery.Delivery{positioned}))
	require.ElementsMatch(t, []string{"1_2c", "1_3", "1_6"}, keys())
	require.NoError(t, s.Close())
	s = openIn(t, dir, Options{})
	require.Len(t, keys(), 3)

	// Without positions the number of keys is bounded.
	_, err = s.writer.Exec("UPDATE receipts SET id = id - ? WHERE receipt = '1_3'", maxKeys)
	require.NoError(t, err)
	require.NoError(t, s.Append(ctx, []kmodquery.Delivery{keyed("ebpf", "1_7")}))
	require.ElementsMatch(t, []string{"1_2c", "1_6", "1_7"}, keys())
}

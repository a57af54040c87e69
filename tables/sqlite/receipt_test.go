package sqlite

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

func TestReceiptsAreKeptWithTheirEvents(t *testing.T) {
	dir := t.TempDir()
	ctx := context.Background()
	s := openIn(t, dir, Options{})
	receipts := func() []string {
		t.Helper()
		list, err := s.Receipts(ctx, "ebpf")
		require.NoError(t, err)
		return list
	}
	require.Empty(t, receipts())
	require.NoError(t, s.Append(ctx, []kmodquery.Event{
		{Source: "ebpf", Receipt: "1_3"}, {Source: "ebpf", Receipt: "1_1"}, {Source: "audit", Receipt: "9"}, {Source: "ebpf"}, {Source: "ebpf", Receipt: "1_2c"},
	}))
	require.ElementsMatch(t, []string{"1_1", "1_2c", "1_3"}, receipts())

	_, err := s.writer.Exec("CREATE TRIGGER refuse BEFORE INSERT ON events WHEN new.name = 'refused' BEGIN SELECT RAISE(ABORT, 'no'); END")
	require.NoError(t, err)
	require.Error(t, s.Append(ctx, []kmodquery.Event{{Source: "ebpf", Receipt: "1_4"}, {Source: "ebpf", Name: "refused", Receipt: "1_5"}}))
	require.Len(t, receipts(), 3)

	// A position says that nobody asks for those before it any more.
	require.NoError(t, s.Append(ctx, []kmodquery.Event{{Source: "ebpf", Receipt: "1_6", Position: "1_2"}}))
	require.ElementsMatch(t, []string{"1_2c", "1_3", "1_6"}, receipts())
	require.NoError(t, s.Close())
	s = openIn(t, dir, Options{})
	require.Len(t, receipts(), 3)

	// Without positions their number is bounded.
	_, err = s.writer.Exec("UPDATE receipts SET id = id - ? WHERE receipt = '1_3'", maxReceipts)
	require.NoError(t, err)
	require.NoError(t, s.Append(ctx, []kmodquery.Event{{Source: "ebpf", Receipt: "1_7"}}))
	require.ElementsMatch(t, []string{"1_2c", "1_6", "1_7"}, receipts())
}

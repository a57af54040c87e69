package sqlite

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

func TestPositionsAreKeptWithTheirEvents(t *testing.T) {
	dir := t.TempDir()
	ctx := context.Background()
	s, err := Open(ctx, dir, Options{})
	require.NoError(t, err)
	position := func(source string) string {
		t.Helper()
		text, err := s.Position(ctx, source)
		require.NoError(t, err)
		return text
	}
	require.Empty(t, position("kmsg"))
	require.NoError(t, s.Append(ctx, []kmodquery.Event{
		{Source: "kmsg", Position: "1"}, {Source: "journal", Position: "a"}, {Source: "kmsg", Position: "2"}, {Source: "kmsg"}, {Source: "ebpf"},
	}))
	require.Equal(t, "2", position("kmsg"))
	require.Equal(t, "a", position("journal"))
	require.Empty(t, position("ebpf"))

	// What cannot be stored does not move them either.
	_, err = s.writer.Exec("CREATE TRIGGER refuse BEFORE INSERT ON events WHEN new.name = 'refused' BEGIN SELECT RAISE(ABORT, 'no'); END")
	require.NoError(t, err)
	require.Error(t, s.Append(ctx, []kmodquery.Event{{Source: "kmsg", Position: "3"}, {Source: "kmsg", Name: "refused", Position: "4"}}))
	require.Equal(t, "2", position("kmsg"))

	require.NoError(t, s.Append(ctx, []kmodquery.Event{{Source: "kmsg", Position: "5"}}))
	require.NoError(t, s.Close())
	s = openIn(t, dir, Options{})
	require.Equal(t, "5", position("kmsg"))
}

package sqlite

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

func TestPositionsAreStoredWithTheirEvents(t *testing.T) {
	at := func(source, position string) kmodquery.Delivery {
		return kmodquery.Delivery{Event: kmodquery.Event{Source: source}, Position: position}
	}
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
	require.NoError(t, s.Append(ctx, []kmodquery.Delivery{
		at("kmsg", "1"), at("journal", "a"), at("kmsg", "2"), at("kmsg", ""), at("ebpf", ""),
	}))
	require.Equal(t, "2", position("kmsg"))
	require.Equal(t, "a", position("journal"))
	require.Empty(t, position("ebpf"))

	refused := at("kmsg", "4")
	refused.Event.Name = "refused"
	_, err = s.writer.Exec("CREATE TRIGGER refuse BEFORE INSERT ON events WHEN new.name = 'refused' BEGIN SELECT RAISE(ABORT, 'no'); END")
	require.NoError(t, err)
	require.Error(t, s.Append(ctx, []kmodquery.Delivery{at("kmsg", "3"), refused}))
	require.Equal(t, "2", position("kmsg"))

	require.NoError(t, s.Append(ctx, []kmodquery.Delivery{at("kmsg", "5")}))
	require.NoError(t, s.Close())
	s = openIn(t, dir, Options{})
	require.Equal(t, "5", position("kmsg"))
}

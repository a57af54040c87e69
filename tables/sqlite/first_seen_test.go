package sqlite

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

// firsts says of each event what its FirstSeen is: 1, 0 or - for none.
func firsts(events []kmodquery.Event) string {
	var all strings.Builder
	for i := range events {
		if first := events[i].FirstSeen; first != nil {
			fmt.Fprint(&all, *first)
		} else {
			all.WriteByte('-')
		}
	}
	return all.String()
}

func attempt(loadID, name, hash string) kmodquery.Event {
	return kmodquery.Event{LoadID: loadID, Name: name, SHA256: hash}
}

func TestFirstSeen(t *testing.T) {
	for name, test := range map[string]struct {
		events []kmodquery.Event
		want   string
	}{
		"every event of the first attempt": {
			[]kmodquery.Event{attempt("1", "a", "x"), attempt("1", "a", "x"), attempt("1", "a", "x")}, "111"},
		"the second attempt": {
			[]kmodquery.Event{attempt("1", "a", "x"), attempt("2", "a", "x"), attempt("2", "a", "x")}, "100"},
		"the first goes on after the second began": {
			[]kmodquery.Event{attempt("1", "a", "x"), attempt("2", "a", "x"), attempt("1", "a", "x"), attempt("2", "a", "x")}, "1010"},
		"the same name with other bytes": {
			[]kmodquery.Event{attempt("1", "a", "x"), attempt("2", "a", "y"), attempt("3", "a", "x")}, "110"},
		"the same bytes under another name": {
			[]kmodquery.Event{attempt("1", "a", "x"), attempt("2", "b", "x"), attempt("3", "b", "x")}, "110"},
		"names differ by case":         {[]kmodquery.Event{attempt("1", "a", "x"), attempt("2", "A", "x")}, "11"},
		"a blank is part of a name":    {[]kmodquery.Event{attempt("1", "a", "x"), attempt("2", "a ", "x")}, "11"},
		"names of any bytes":           {[]kmodquery.Event{attempt("1", "\xff\x00b", "x"), attempt("2", "\xff\x00c", "x"), attempt("3", "\xff\x00b", "x")}, "110"},
		"attempts differ by case":      {[]kmodquery.Event{attempt("a", "a", "x"), attempt("A", "a", "x")}, "10"},
		"no attempt is no attempt's":   {[]kmodquery.Event{attempt("", "a", "x"), attempt("", "a", "x"), attempt("1", "a", "x")}, "100"},
		"no name":                      {[]kmodquery.Event{attempt("1", "", "x")}, "-"},
		"no hash":                      {[]kmodquery.Event{attempt("1", "a", "")}, "-"},
		"a name and later its hash":    {[]kmodquery.Event{attempt("1", "a", ""), attempt("1", "a", "x"), attempt("2", "a", "")}, "-1-"},
		"whatever the event says":      {[]kmodquery.Event{{Name: "a", FirstSeen: ptr(int64(1))}}, "-"},
		"whatever the event says of 0": {[]kmodquery.Event{{Name: "a", SHA256: "x", FirstSeen: ptr(int64(0))}}, "1"},
	} {
		t.Run(name+", in one batch", func(t *testing.T) {
			s := openStore(t, Options{})
			events := append([]kmodquery.Event{}, test.events...)
			require.NoError(t, appendEvents(context.Background(), s, events))
			require.Equal(t, test.want, firsts(events))
			require.ElementsMatch(t, events, read(t, s, kmodquery.Filter{}), "what is stored is what is said")
		})
		t.Run(name+", one by one over restarts", func(t *testing.T) {
			dir, got := t.TempDir(), ""
			for _, event := range test.events {
				s, err := Open(context.Background(), dir, Options{})
				require.NoError(t, err)
				batch := []kmodquery.Event{event}
				require.NoError(t, appendEvents(context.Background(), s, batch))
				require.NoError(t, s.Close())
				got += firsts(batch)
			}
			require.Equal(t, test.want, got)
		})
	}
}

func TestFirstSeenIsMissingWithWhatItIsMadeOf(t *testing.T) {
	for name, test := range map[string]struct {
		event kmodquery.Event
		want  string
	}{
		"nothing is missing":               {kmodquery.Event{Name: "a", SHA256: "x"}, ""},
		"there is no hash to have":         {kmodquery.Event{Name: "a"}, ""},
		"there is no name to have":         {kmodquery.Event{SHA256: "x"}, ""},
		"the hash":                         {kmodquery.Event{Name: "a", Missing: "path,sha256"}, "path,sha256,first_seen"},
		"the name":                         {kmodquery.Event{SHA256: "x", Missing: "name"}, "name,first_seen"},
		"both":                             {kmodquery.Event{Missing: "name,sha256"}, "name,sha256,first_seen"},
		"the name, and no bytes were read": {kmodquery.Event{Missing: "name"}, "name"},
		"another hash":                     {kmodquery.Event{Name: "a", Missing: "image_sha256"}, "image_sha256"},
		"already named":                    {kmodquery.Event{Missing: "first_seen,sha256"}, "first_seen,sha256"},
	} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t, Options{})
			events := []kmodquery.Event{test.event}
			require.NoError(t, appendEvents(context.Background(), s, events))
			require.Equal(t, test.want, events[0].Missing.String())
			require.Equal(t, test.want, read(t, s, kmodquery.Filter{})[0].Missing.String())
		})
	}
}

// The writer offers a batch that failed again, the same memory.
func TestABatchThatFailedIsNotSeen(t *testing.T) {
	s := openStore(t, Options{})
	_, err := s.writer.Exec("CREATE TRIGGER full BEFORE INSERT ON events WHEN new.pid = 3 BEGIN SELECT raise(ABORT, 'disk is full'); END")
	require.NoError(t, err)
	batch := []kmodquery.Event{
		attempt("1", "a", "x"), attempt("2", "a", "x"),
		{Missing: "sha256", Pid: ptr(int64(3))},
	}
	before := append([]kmodquery.Event{}, batch...)
	for range 2 {
		require.ErrorContains(t, appendEvents(context.Background(), s, batch), "disk is full")
		require.Equal(t, before, batch, "not a field of them is changed")
	}
	other := []kmodquery.Event{attempt("3", "b", "x")}
	require.NoError(t, appendEvents(context.Background(), s, other))

	_, err = s.writer.Exec("DROP TRIGGER full")
	require.NoError(t, err)
	require.NoError(t, appendEvents(context.Background(), s, batch))
	require.Equal(t, "10-", firsts(batch))
	require.Equal(t, []int64{2, 3, 4}, eids(batch))
}

func TestSeenOutlivesTheEvents(t *testing.T) {
	s := openStore(t, Options{MaxAge: time.Second, Now: func() time.Time { return time.Unix(1000, 0) }})
	require.NoError(t, appendEvents(context.Background(), s, []kmodquery.Event{attempt("1", "a", "x")}))
	require.NoError(t, s.Expire(context.Background()))
	require.Empty(t, read(t, s, kmodquery.Filter{}))
	again := []kmodquery.Event{attempt("2", "a", "x"), attempt("1", "a", "x")}
	require.NoError(t, appendEvents(context.Background(), s, again))
	require.Equal(t, "01", firsts(again))
}

// seen makes the store remember a pair under an id.
func seen(t *testing.T, s *Store, id int, name string) {
	t.Helper()
	_, err := s.writer.Exec("INSERT INTO seen (id, name, sha256, time) VALUES (?, ?, 'x', 0)", id, name)
	require.NoError(t, err)
}

func TestTheOldestPairsAreForgotten(t *testing.T) {
	s := openStore(t, Options{})
	require.NoError(t, s.Expire(context.Background()), "of an empty store")
	const beyond = 2*expiryChunk + 10
	_, err := s.writer.Exec(`WITH RECURSIVE old (id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM old WHERE id < ?)
		INSERT INTO seen (id, name, sha256, time) SELECT id, 'old ' || id, 'x', 0 FROM old`, beyond)
	require.NoError(t, err)
	seen(t, s, beyond+1, "kept")
	require.NoError(t, s.Expire(context.Background()))
	var pairs int
	require.NoError(t, s.readers.QueryRow("SELECT count(*) FROM seen").Scan(&pairs))
	require.Equal(t, beyond+1, pairs, "fewer than the bound stay")

	seen(t, s, beyond+maxSeen, "new")
	require.NoError(t, s.Expire(context.Background()))
	require.NoError(t, s.readers.QueryRow("SELECT count(*) FROM seen").Scan(&pairs))
	require.Equal(t, 2, pairs)

	events := []kmodquery.Event{attempt("1", "kept", "x"), attempt("1", "new", "x"), attempt("1", "old 1", "x")}
	require.NoError(t, appendEvents(context.Background(), s, events))
	require.Equal(t, "001", firsts(events))
}

// What the bound counts are ids.
func TestIDsOfSeenHaveNoGaps(t *testing.T) {
	s := openStore(t, Options{})
	for i := range 3 {
		name := fmt.Sprint(i)
		require.NoError(t, appendEvents(context.Background(), s, []kmodquery.Event{
			attempt("1", name, "x"), attempt("1", name, "x"), attempt("2", name, "x"), attempt("2", "0", "x"),
		}))
	}
	var pairs, last int
	require.NoError(t, s.readers.QueryRow("SELECT count(*), max(id) FROM seen").Scan(&pairs, &last))
	require.Equal(t, 3, pairs)
	require.Equal(t, 3, last)
}

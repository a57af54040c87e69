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

// firsts returns the FirstSeen of each event: 1, 0, or - for nil.
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

func TestFirstSeenIsThatOfTheFirstAttempt(t *testing.T) {
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
		"names differ by case":               {[]kmodquery.Event{attempt("1", "a", "x"), attempt("2", "A", "x")}, "11"},
		"a blank is part of a name":          {[]kmodquery.Event{attempt("1", "a", "x"), attempt("2", "a ", "x")}, "11"},
		"names of any bytes":                 {[]kmodquery.Event{attempt("1", "\xff\x00b", "x"), attempt("2", "\xff\x00c", "x"), attempt("3", "\xff\x00b", "x")}, "110"},
		"attempts differ by case":            {[]kmodquery.Event{attempt("a", "a", "x"), attempt("A", "a", "x")}, "10"},
		"events without an attempt":          {[]kmodquery.Event{attempt("", "a", "x"), attempt("", "a", "x"), attempt("1", "a", "x")}, "100"},
		"no name":                            {[]kmodquery.Event{attempt("1", "", "x")}, "-"},
		"no hash":                            {[]kmodquery.Event{attempt("1", "a", "")}, "-"},
		"a name and later its hash":          {[]kmodquery.Event{attempt("1", "a", ""), attempt("1", "a", "x"), attempt("2", "a", "")}, "-1-"},
		"a given FirstSeen is cleared":       {[]kmodquery.Event{{Name: "a", FirstSeen: ptr(int64(1))}}, "-"},
		"a given FirstSeen of 0 is replaced": {[]kmodquery.Event{{Name: "a", SHA256: "x", FirstSeen: ptr(int64(0))}}, "1"},
	} {
		t.Run(name+", in one batch", func(t *testing.T) {
			s := openStore(t, Options{})
			events := append([]kmodquery.Event{}, test.events...)
			require.NoError(t, appendEvents(context.Background(), s, events))
			require.Equal(t, test.want, firsts(events))
			require.ElementsMatch(t, events, read(t, s, kmodquery.Filter{}), "the stored events differ from the completed ones")
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

func TestFirstSeenIsMissingIfTheNameOrHashIsMissing(t *testing.T) {
	for name, test := range map[string]struct {
		event kmodquery.Event
		want  string
	}{
		"nothing is missing":                       {kmodquery.Event{Name: "a", SHA256: "x"}, ""},
		"no hash applies":                          {kmodquery.Event{Name: "a"}, ""},
		"no name applies":                          {kmodquery.Event{SHA256: "x"}, ""},
		"the hash is missing":                      {kmodquery.Event{Name: "a", Missing: "path,sha256"}, "path,sha256,first_seen"},
		"the name is missing":                      {kmodquery.Event{SHA256: "x", Missing: "name"}, "name,first_seen"},
		"both are missing":                         {kmodquery.Event{Missing: "name,sha256"}, "name,sha256,first_seen"},
		"the name is missing, and no hash applies": {kmodquery.Event{Missing: "name"}, "name"},
		"another hash is missing":                  {kmodquery.Event{Name: "a", Missing: "image_sha256"}, "image_sha256"},
		"first_seen is missing already":            {kmodquery.Event{Missing: "first_seen,sha256"}, "first_seen,sha256"},
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

// The writer appends a failed batch again, in the same memory.
func TestAFailedBatchIsNotRemembered(t *testing.T) {
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
		require.Equal(t, before, batch, "a failed batch was changed")
	}
	other := []kmodquery.Event{attempt("3", "b", "x")}
	require.NoError(t, appendEvents(context.Background(), s, other))

	_, err = s.writer.Exec("DROP TRIGGER full")
	require.NoError(t, err)
	require.NoError(t, appendEvents(context.Background(), s, batch))
	require.Equal(t, "10-", firsts(batch))
	require.Equal(t, []int64{2, 3, 4}, eids(batch))
}

func TestNamesAndHashesAreRememberedAfterTheirEventsExpire(t *testing.T) {
	s := openStore(t, Options{MaxAge: time.Second, Now: func() time.Time { return time.Unix(1000, 0) }})
	require.NoError(t, appendEvents(context.Background(), s, []kmodquery.Event{attempt("1", "a", "x")}))
	require.NoError(t, s.Expire(context.Background()))
	require.Empty(t, read(t, s, kmodquery.Filter{}))
	again := []kmodquery.Event{attempt("2", "a", "x"), attempt("1", "a", "x")}
	require.NoError(t, appendEvents(context.Background(), s, again))
	require.Equal(t, "01", firsts(again))
}

// seen adds a pair with an id to the remembered ones.
func seen(t *testing.T, s *Store, id int, name string) {
	t.Helper()
	_, err := s.writer.Exec("INSERT INTO seen (id, name, sha256, time) VALUES (?, ?, 'x', 0)", id, name)
	require.NoError(t, err)
}

func TestTheOldestPairsAreDeleted(t *testing.T) {
	s := openStore(t, Options{})
	require.NoError(t, s.Expire(context.Background()), "an empty store")
	const beyond = 2*expiryChunk + 10
	_, err := s.writer.Exec(`WITH RECURSIVE old (id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM old WHERE id < ?)
		INSERT INTO seen (id, name, sha256, time) SELECT id, 'old ' || id, 'x', 0 FROM old`, beyond)
	require.NoError(t, err)
	seen(t, s, beyond+1, "kept")
	require.NoError(t, s.Expire(context.Background()))
	var pairs int
	require.NoError(t, s.readers.QueryRow("SELECT count(*) FROM seen").Scan(&pairs))
	require.Equal(t, beyond+1, pairs, "pairs within the bound were deleted")

	seen(t, s, beyond+maxSeen, "new")
	require.NoError(t, s.Expire(context.Background()))
	require.NoError(t, s.readers.QueryRow("SELECT count(*) FROM seen").Scan(&pairs))
	require.Equal(t, 2, pairs)

	events := []kmodquery.Event{attempt("1", "kept", "x"), attempt("1", "new", "x"), attempt("1", "old 1", "x")}
	require.NoError(t, appendEvents(context.Background(), s, events))
	require.Equal(t, "001", firsts(events))
}

// The bound on pairs counts ids.
func TestIDsOfRememberedPairsHaveNoGaps(t *testing.T) {
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

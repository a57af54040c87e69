package sqlite

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
)

// Events of both kinds.
func loadOf(i int) kmodquery.Event {
	return kmodquery.Event{Time: int64(1000 + i), EventName: kmodquery.EventModuleLoad, Name: fmt.Sprint("module", i), Path: "/lib/x.ko"}
}

func requestOf(i int) kmodquery.Event {
	return kmodquery.Event{Time: int64(1000 + i), EventName: kmodquery.EventModuleRequest, Name: fmt.Sprint("alias", i)}
}

// mixed returns n events of each kind, in turn.
func mixed(n int) (events []kmodquery.Event) {
	for i := range n {
		events = append(events, loadOf(i), requestOf(i))
	}
	return events
}

// verified checks all rows and returns what the recorder then says of them.
func verified(t *testing.T, s *Store) string {
	t.Helper()
	for range 1000 {
		done, err := s.verifySlice(context.Background())
		require.NoError(t, err)
		if done {
			return s.Loss()
		}
	}
	require.Fail(t, "the check does not end")
	return ""
}

func statusOf(t *testing.T, s *Store) kmodquery.StoreStatus {
	t.Helper()
	status, err := s.Status(context.Background())
	require.NoError(t, err)
	return status
}

// requireSound demands that nothing is wrong and that the totals are those of the rows.
func requireSound(t *testing.T, s *Store) {
	t.Helper()
	require.Empty(t, verified(t, s))
	status := statusOf(t, s)
	require.Empty(t, status.Trouble)
	var want totals
	rows, err := s.readers.Query("SELECT eid, cheap, mac FROM events")
	require.NoError(t, err)
	defer rows.Close()
	for rows.Next() {
		var eid, kind int64
		var mac []byte
		require.NoError(t, rows.Scan(&eid, &kind, &mac))
		want.count(1, eid, kind, mac)
	}
	require.Equal(t, want.Rows, [2]int64{*status.Totals.Rows, *status.Totals.UnprivilegedRows})
	require.Equal(t, [2]string{want.Sums[0].String(), want.Sums[1].String()}, [2]string{status.Totals.Sum, status.Totals.UnprivilegedSum})
}

// hand runs a statement as root would do with sqlite3.
func hand(t *testing.T, s *Store, statement string, args ...any) {
	t.Helper()
	db, err := openWriter(s.path, defaultBusyTimeout)
	require.NoError(t, err)
	defer db.Close()
	_, err = db.Exec(statement, args...)
	require.NoError(t, err)
}

func TestExpiryOfBothKindsKeepsTheTotals(t *testing.T) {
	s := openStore(t, Options{MaxEvents: 7, MaxUnprivileged: 3})
	for i := range 10 {
		require.NoError(t, appendEvents(context.Background(), s, mixed(2+i%3)))
		// A check that is under way goes on with what is left.
		_, err := s.verifySlice(context.Background())
		require.NoError(t, err)
		require.NoError(t, s.Expire(context.Background()))
		requireSound(t, s)
	}
	status := statusOf(t, s)
	totals, all := status.Totals, eids(read(t, s, kmodquery.Filter{}))
	require.Equal(t, slices.Min(all), status.FirstEID)
	require.Greater(t, status.FirstEID, int64(1))
	require.EqualValues(t, 7, *totals.Rows)
	require.EqualValues(t, 3, *totals.UnprivilegedRows)
	require.NotEqual(t, totals.Sum, totals.UnprivilegedSum)
	require.Len(t, totals.Sum, 64)
}

func TestTheSumDoesNotDependOnTheOrder(t *testing.T) {
	row := func(b byte) []byte { return []byte(strings.Repeat(string(rune(b)), sha256.Size)) }
	var forth, back totals
	for i := byte(1); i < 100; i++ {
		forth.count(1, 1, 0, row(i))
		back.count(1, 1, 0, row(100-i))
	}
	require.Equal(t, forth, back)
	for i := byte(1); i < 100; i++ {
		forth.count(-1, 1, 0, row(i))
	}
	require.Zero(t, forth)
	forth.count(-1, 1, 1, row(1))
	require.NotZero(t, forth.Sums[1])
	forth.count(1, 1, 1, row(1))
	require.Zero(t, forth, "modulo 2^256")
}

// Expiry that comes between two slices, before and behind the place of the check, and events
// that are stored meanwhile, are no finding.
func TestAChangingStoreGivesNoFinding(t *testing.T) {
	for _, slice := range []int{1, 4, 10} {
		s := openStore(t, Options{})
		s.slice = slice
		require.NoError(t, appendEvents(context.Background(), s, mixed(10)))
		done, err := s.verifySlice(context.Background())
		require.NoError(t, err)
		require.False(t, done)
		s.options.MaxEvents, s.options.MaxUnprivileged = 3, 9 // up to eid 13, and eid 2
		require.NoError(t, s.Expire(context.Background()))
		require.NoError(t, appendEvents(context.Background(), s, mixed(2)))
		requireSound(t, s)
		s.options.MaxEvents, s.options.MaxUnprivileged = 20, 20
		for i := range 200 {
			require.NoError(t, appendEvents(context.Background(), s, mixed(i%4)))
			if i%3 == 0 {
				require.NoError(t, s.Expire(context.Background()))
			}
			_, err := s.verifySlice(context.Background())
			require.NoError(t, err)
			require.Empty(t, s.Loss())
			require.Empty(t, statusOf(t, s).Trouble)
		}
		s.options.MaxEvents = 1
		require.NoError(t, s.Expire(context.Background()))
		requireSound(t, s)
	}
}

// A check reads a bounded number of rows at a time and finds what is behind the first of them.
func TestTheCheckReadsSlices(t *testing.T) {
	s := openStore(t, Options{})
	require.NoError(t, appendEvents(context.Background(), s, mixed(verifyRows)))
	hand(t, s, "UPDATE events SET name = 'x' WHERE eid = ?", 2*verifyRows)
	for range 2 {
		done, err := s.verifySlice(context.Background())
		require.NoError(t, err)
		require.False(t, done)
	}
	require.Contains(t, s.Loss(), "eid 500", "the second slice has it")
	done, err := s.verifySlice(context.Background())
	require.NoError(t, err)
	require.True(t, done)
}

// A row that is longer than any event is not read, and hides no other one.
func TestALongRowIsNotRead(t *testing.T) {
	for _, column := range []string{"raw", "cmdline", "event_name", "sums"} {
		t.Run(column, func(t *testing.T) {
			s := openStore(t, Options{})
			require.NoError(t, appendEvents(context.Background(), s, mixed(3)))
			value := "hex(zeroblob(?))"
			if column == "sums" {
				value = "zeroblob(2 * ?)"
			}
			hand(t, s, "UPDATE events SET "+column+" = "+value+" WHERE eid = 3", maxRow/2+1)
			for i := range 2 * readers {
				require.Equal(t, []int64{6, 5, 4, 2, 1}, eids(read(t, s, kmodquery.Filter{})))
				require.EqualValues(t, i+1, s.damaged.Load())
			}
			// A cursor goes past it.
			var found []int64
			loads := kmodquery.Filter{Conditions: []kmodquery.Condition{{Column: "event_name", Op: kmodquery.Equal, Values: []any{kmodquery.EventModuleLoad}}}}
			require.NoError(t, s.EventsBetween(context.Background(), 0, 6, loads, func(e *kmodquery.Event) error {
				found = append(found, e.EID)
				return nil
			}))
			require.Equal(t, []int64{1, 5}, found)
			require.Contains(t, verified(t, s), "the rows are not those that were stored")
		})
	}
}

// An error of the check is said until all rows were checked.
func TestACheckThatFailsIsSaid(t *testing.T) {
	s := openStore(t, Options{})
	require.NoError(t, appendEvents(context.Background(), s, mixed(2)))
	hand(t, s, "UPDATE totals SET state = hex(zeroblob(?))", maxRow/2+1)
	for range 2 {
		_, err := s.verifySlice(context.Background())
		require.ErrorContains(t, err, "too big")
		require.Equal(t, "the rows of "+s.path+" cannot be checked: string or blob too big (18)", s.Loss())
	}
	require.NoError(t, appendEvents(context.Background(), s, mixed(2))) // the totals begin anew
	require.Empty(t, verified(t, s))
}

// Each process reports at once that rows are missing.
func TestDeletedRowsAreMissed(t *testing.T) {
	for name, test := range map[string]struct {
		statement string
		want      string
	}{
		"one":                          {"DELETE FROM events WHERE eid = 3", "3 rows and 4 unprivileged ones instead of 4 and 4"},
		"an unprivileged one":          {"DELETE FROM events WHERE eid = 4", "4 rows and 3 unprivileged ones instead of 4 and 4"},
		"the newest":                   {"DELETE FROM events WHERE eid > 4; UPDATE sqlite_sequence SET seq = 4", "2 rows and 2 unprivileged ones instead of 4 and 4"},
		"all":                          {"DELETE FROM events; DELETE FROM sqlite_sequence", "0 rows and 0 unprivileged ones instead of 4 and 4"},
		"one that is unprivileged now": {"UPDATE events SET cheap = 1 WHERE eid = 3", "3 rows and 5 unprivileged ones instead of 4 and 4"},
		"one is added":                 {"INSERT INTO events (time, time_nanos, name) VALUES (1, 1, 'x')", "5 rows and 4 unprivileged ones instead of 4 and 4"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := openIn(t, dir, Options{})
			reader := openIn(t, dir, Options{})
			require.NoError(t, appendEvents(context.Background(), s, mixed(4)))
			require.Empty(t, statusOf(t, reader).Trouble)
			hand(t, s, test.statement)
			for _, s := range []*Store{s, reader} {
				require.Contains(t, statusOf(t, s).Trouble, "the store has "+test.want)
			}
			// Neither expiry, nor new events, nor another recorder change that.
			require.NoError(t, appendEvents(context.Background(), s, mixed(1)))
			s.options.MaxEvents = 1
			require.NoError(t, s.Expire(context.Background()))
			require.Contains(t, statusOf(t, s).Trouble, "instead of")
			require.NoError(t, s.Close())
			s = openIn(t, dir, Options{})
			require.Contains(t, statusOf(t, s).Trouble, "by hand, or the disk failed")
		})
	}
}

// resummed sets the checksums of a row to those of its values, as somebody can without the
// key. The HMAC stays.
func resummed(t *testing.T, s *Store, eid int64) {
	t.Helper()
	columns := kmodquery.EventColumns()
	values := make([]any, len(columns))
	pointers := make([]any, len(values))
	for i := range values {
		pointers[i] = &values[i]
	}
	names := strings.Join(columnNames(columns), ", ")
	require.NoError(t, s.readers.QueryRow("SELECT "+names+" FROM events WHERE eid = ?", eid).Scan(pointers...))
	sums, _ := newChecksummer(columns, nil).of(values, 0)
	hand(t, s, "UPDATE events SET sums = ? WHERE eid = ?", sums, eid)
}

func TestChangedRowsAreFound(t *testing.T) {
	const byHand, byEither = "and not the key: they were changed or added by hand", "the disk or the memory failed, or they were changed by hand"
	for name, test := range map[string]struct {
		change func(t *testing.T, s *Store)
		want   string
		eids   string
		shown  bool // a query of the next process shows the row
	}{
		"a value": {func(t *testing.T, s *Store) { hand(t, s, "UPDATE events SET name = 'x' WHERE eid = 3") }, byEither, "eid 3", false},
		"a value and its checksum": {func(t *testing.T, s *Store) {
			hand(t, s, "UPDATE events SET name = 'x' WHERE eid = 3")
			resummed(t, s, 3)
		}, byHand, "eid 3", true},
		"a value and the checksum of an older version": {func(t *testing.T, s *Store) {
			hand(t, s, "UPDATE events SET name = 'x' WHERE eid = 3")
			hand(t, s, "UPDATE events SET mac = NULL WHERE eid = 3")
			resummed(t, s, 3)
		}, byHand, "eid 3", true},
		"the HMAC": {func(t *testing.T, s *Store) {
			hand(t, s, "UPDATE events SET mac = zeroblob(32) WHERE eid = 3")
		}, byHand, "eid 3", true},
		"the row has no sums": {func(t *testing.T, s *Store) {
			hand(t, s, "UPDATE events SET sums = NULL WHERE eid = 3; UPDATE unsummed SET eid = 100")
		}, byEither, "eid 3", true},
		"two rows are swapped": {func(t *testing.T, s *Store) {
			hand(t, s, "UPDATE events SET eid = -1 WHERE eid = 3; UPDATE events SET eid = 3 WHERE eid = 5; UPDATE events SET eid = 5 WHERE eid = -1")
		}, byEither, "eid 3 5", false},
		"two rows are swapped with new checksums": {func(t *testing.T, s *Store) {
			hand(t, s, "UPDATE events SET eid = -1 WHERE eid = 3; UPDATE events SET eid = 3 WHERE eid = 5; UPDATE events SET eid = 5 WHERE eid = -1")
			resummed(t, s, 3)
			resummed(t, s, 5)
		}, byHand, "eid 3 5", true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := openIn(t, dir, Options{})
			require.NoError(t, appendEvents(context.Background(), s, mixed(4)))
			requireSound(t, s)
			test.change(t, s)
			for i := range 2 {
				require.Contains(t, verified(t, s), test.want)
				require.Contains(t, s.Loss(), "rows with "+test.eids+" ")
				if i > 0 {
					require.Equal(t, test.shown, slices.Contains(eids(read(t, s, kmodquery.Filter{})), 3))
				}
				require.NoError(t, s.Close())
				s = openIn(t, dir, Options{})
			}
			// Once the row has expired, the sum still differs.
			s.options.MaxEvents, s.options.MaxUnprivileged = 1, 1
			require.NoError(t, s.Expire(context.Background()))
			switch verified(t, s) {
			case "":
				require.Contains(t, []string{"a value", "the row has no sums", "a value and its checksum", "two rows are swapped", "two rows are swapped with new checksums"}, name, "the HMACs that were deleted are those that were stored")
			default:
				require.Contains(t, s.Loss(), "before they expired")
			}
		})
	}
}

// A row that had expired, and is put back for another one, matches the key.
func TestExchangedRowsAreFound(t *testing.T) {
	s := openStore(t, Options{MaxEvents: 4})
	require.NoError(t, appendEvents(context.Background(), s, []kmodquery.Event{loadOf(1), loadOf(2), loadOf(3), loadOf(4), loadOf(5)}))
	hand(t, s, "CREATE TABLE kept AS SELECT * FROM events WHERE eid = 1")
	require.NoError(t, s.Expire(context.Background()))
	requireSound(t, s)
	hand(t, s, "DELETE FROM events WHERE eid = 3; INSERT INTO events SELECT * FROM kept")
	require.Contains(t, verified(t, s), "some were deleted, added or exchanged by hand")
	require.Empty(t, statusOf(t, s).Trouble)
}

// What root changes without the key is said in each process, also after a restart, until the
// rows would have expired by age.
func TestChangedTotalsBeginAnew(t *testing.T) {
	const unknown = "whether events up to 8 are missing or were changed by hand is unknown"
	for name, statement := range map[string]string{
		"changed":                      `UPDATE totals SET state = replace(state, '"Last":8', '"Last":7')`,
		"copied":                       "UPDATE totals SET mac = zeroblob(32)",
		"removed":                      "DELETE FROM totals",
		"removed with the rows":        "DELETE FROM events; DELETE FROM totals",
		"removed with the rows' EIDs":  "DELETE FROM events; DELETE FROM sqlite_sequence; DELETE FROM totals",
		"as in an upgrade":             "DELETE FROM events WHERE eid = 3; UPDATE totals SET state = '', mac = x''",
		"older ones":                   "DELETE FROM events WHERE eid > 4; UPDATE totals SET (state, mac) = (SELECT state, mac FROM kept)",
		"older ones, and older EIDs":   "DELETE FROM events WHERE eid > 4; UPDATE totals SET (state, mac) = (SELECT state, mac FROM kept); UPDATE sqlite_sequence SET seq = 4",
		"older ones, and no rows left": "DELETE FROM events; UPDATE totals SET (state, mac) = (SELECT state, mac FROM kept)",
	} {
		for _, isRestarted := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", restarted: ", isRestarted), func(t *testing.T) {
				var said []string
				now := time.Unix(10_000, 0)
				o := Options{MaxAge: 10 * time.Minute, MaxEvents: 5, MaxUnprivileged: 5, Now: func() time.Time { return now }, Report: func(err error) { said = append(said, err.Error()) }}
				o.Elapsed = func() time.Duration { return now.Sub(time.Unix(10_000, 0)) }
				dir := t.TempDir()
				s := openIn(t, dir, o)
				young := func(n int) []kmodquery.Event {
					events := mixed(n)
					for i := range events {
						events[i].Time = now.Unix()
					}
					return events
				}
				require.NoError(t, appendEvents(context.Background(), s, young(2)))
				hand(t, s, "CREATE TABLE kept AS SELECT state, mac FROM totals")
				require.NoError(t, appendEvents(context.Background(), s, young(2)))
				hand(t, s, statement)
				if isRestarted {
					require.NoError(t, s.Close())
					s = openIn(t, dir, o)
				}
				require.Empty(t, verified(t, s))
				require.Len(t, said, 1)
				// SQLite may have forgotten the last EIDs, and the lock file has them.
				require.True(t, strings.HasPrefix(said[0], unknown) || strings.HasSuffix(said[0], "put in its place"), said[0])
				require.Contains(t, statusOf(t, s).Trouble, said[0])
				require.EqualValues(t, 8, *statusOf(t, s).Totals.SumsAfter)
				again := young(4)
				require.NoError(t, appendEvents(context.Background(), s, again))
				require.EqualValues(t, 9, again[0].EID)
				require.Empty(t, verified(t, s))
				require.NoError(t, s.Close())

				s = openIn(t, dir, o)
				require.Contains(t, statusOf(t, openIn(t, dir, Options{})).Trouble, said[0])
				now = now.Add(9 * time.Minute)
				require.NoError(t, s.Expire(context.Background()))
				require.NoError(t, appendEvents(context.Background(), s, young(4)))
				require.NoError(t, s.Expire(context.Background()))
				require.Contains(t, statusOf(t, s).Trouble, said[0])
				now = now.Add(11 * time.Minute)
				require.NoError(t, s.Expire(context.Background()))
				require.Empty(t, statusOf(t, s).Trouble)
				require.Empty(t, verified(t, s))
				require.Len(t, said, 1)
			})
		}
	}
}

// An old copy of the database is noticed by the lock file. What root also changes there, only
// the numbers that were shipped show.
func TestAnOlderDatabaseIsNoticed(t *testing.T) {
	for name, test := range map[string]struct {
		put    func(t *testing.T, dir string, old []byte)
		isSeen bool
	}{
		"over the database": {func(t *testing.T, dir string, old []byte) {
			require.NoError(t, os.WriteFile(filepath.Join(dir, databaseName), old, fileMode))
		}, true},
		"in its place": {func(t *testing.T, dir string, old []byte) {
			path := filepath.Join(dir, databaseName)
			require.NoError(t, os.WriteFile(path+".x", old, fileMode))
			require.NoError(t, os.Rename(path+".x", path))
		}, true},
		"nothing in its place": {func(t *testing.T, dir string, _ []byte) {
			require.NoError(t, os.Remove(filepath.Join(dir, databaseName)))
		}, true},
		"with a lock that says nothing": {func(t *testing.T, dir string, old []byte) {
			require.NoError(t, os.WriteFile(filepath.Join(dir, databaseName), old, fileMode))
			require.NoError(t, os.Truncate(filepath.Join(dir, lockName), 0))
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := openIn(t, dir, Options{})
			require.NoError(t, appendEvents(context.Background(), s, mixed(4)))
			require.NoError(t, s.Close())
			old, err := os.ReadFile(filepath.Join(dir, databaseName))
			require.NoError(t, err)
			s = openIn(t, dir, Options{})
			require.NoError(t, appendEvents(context.Background(), s, mixed(2)))
			shipped := statusOf(t, s).Totals
			require.NoError(t, s.Close())
			test.put(t, dir, old)
			s = openIn(t, dir, Options{})
			now := statusOf(t, s)
			require.Less(t, *now.Totals.Rows, *shipped.Rows, "the copy that was shipped shows it")
			require.Empty(t, verified(t, s))
			if !test.isSeen {
				require.Empty(t, now.Trouble)
				require.Less(t, *now.Totals.LastEID, *shipped.LastEID)
				return
			}
			again := mixed(1)
			require.NoError(t, appendEvents(context.Background(), s, again))
			require.Equal(t, *shipped.LastEID+1, again[0].EID)
			for range 2 {
				require.Regexp(t, `events .*are lost: the .*put in its place`, statusOf(t, s).Trouble)
				require.NoError(t, s.Close())
				s = openIn(t, dir, Options{})
			}
		})
	}
}

// Whatever happens to the key, the store opens and shows every row, and says what it cannot
// check any more.
func TestALostKeyLosesNoRow(t *testing.T) {
	write := func(content string) func(t *testing.T, path string) {
		return func(t *testing.T, path string) { require.NoError(t, os.WriteFile(path, []byte(content), fileMode)) }
	}
	for name, change := range map[string]func(t *testing.T, path string){
		"missing":        func(*testing.T, string) {},
		"replaced":       write(strings.Repeat("k", keySize)),
		"empty":          write(""),
		"too long":       write(strings.Repeat("k", keySize+1)),
		"a folder":       func(t *testing.T, path string) { require.NoError(t, os.MkdirAll(filepath.Join(path, "x"), 0o700)) },
		"a link":         func(t *testing.T, path string) { require.NoError(t, os.Symlink("/dev/zero", path)) },
		"a pipe":         func(t *testing.T, path string) { require.NoError(t, unix.Mkfifo(path, 0o600)) },
		"half of it new": write(strings.Repeat("k", keySize/2)),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, keyName)
			s := openIn(t, dir, Options{})
			require.NoError(t, appendEvents(context.Background(), s, mixed(2)))
			require.NoError(t, s.Close())
			require.NoError(t, os.Remove(path))
			change(t, path)
			for i := range 3 {
				var said []string
				s = openIn(t, dir, Options{Report: func(err error) { said = append(said, err.Error()) }})
				require.NoError(t, appendEvents(context.Background(), s, mixed(1)))
				require.Len(t, read(t, s, kmodquery.Filter{}), 4+2*(i+1))
				require.Contains(t, statusOf(t, s).Trouble, "because the key or the totals of the event store were removed or changed")
				if name == "a folder" {
					require.Contains(t, verified(t, s), "the key of the event store cannot be kept")
					require.NotEmpty(t, said)
				} else {
					require.Empty(t, verified(t, s))
					require.EqualValues(t, 4, *statusOf(t, s).Totals.SumsAfter)
					info, err := os.Lstat(path)
					require.NoError(t, err)
					require.Equal(t, os.FileMode(0o600), info.Mode())
					require.Equal(t, i == 0, said != nil, "%q", said)
				}
				hand(t, s, "UPDATE events SET name = 'x' WHERE eid = ?", 6+2*i)
				resummed(t, s, int64(6+2*i))
				require.Contains(t, verified(t, s), "they were changed or added by hand")
				hand(t, s, "UPDATE events SET name = 'alias0' WHERE eid = ?", 6+2*i)
				resummed(t, s, int64(6+2*i))
				if name != "a folder" {
					require.Empty(t, verified(t, s))
				}
				require.NoError(t, s.Close())
			}
		})
	}
}

func TestTheKeyOfARunningRecorderIsWrittenAgain(t *testing.T) {
	var said []string
	dir := t.TempDir()
	path := filepath.Join(dir, keyName)
	s := openIn(t, dir, Options{Report: func(err error) { said = append(said, err.Error()) }})
	require.NoError(t, appendEvents(context.Background(), s, mixed(2)))
	key, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Len(t, key, keySize)
	for _, change := range []func(){
		func() { require.NoError(t, os.Remove(path)) },
		func() { require.NoError(t, os.WriteFile(path, make([]byte, keySize), fileMode)) },
	} {
		change()
		requireSound(t, s)
		require.Contains(t, said[len(said)-1], "was removed or changed; it was written again")
		written, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, key, written)
	}
	require.NoError(t, os.Chmod(path, 0o644))
	requireSound(t, s)
	require.Contains(t, said[len(said)-1], "had mode 0644")
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode())
	require.Len(t, said, 3)
	require.NoError(t, s.Close())
	requireSound(t, openIn(t, dir, Options{}))
}

// A disk that fails does not cost the key, nor the totals if it answers before the next batch.
func TestAKeyThatCannotBeReadIsKept(t *testing.T) {
	var said []string
	dir := t.TempDir()
	s := openIn(t, dir, Options{Report: func(err error) { said = append(said, err.Error()) }})
	path := filepath.Join(dir, "events.key")
	require.NoError(t, appendEvents(context.Background(), s, mixed(2)))
	key, err := os.ReadFile(path)
	require.NoError(t, err)

	s.useKey(nil, unix.EIO)
	require.Equal(t, []string{"the key of the event store cannot be read, so the rows are not checked: input/output error"}, said)
	require.Equal(t, said[0], s.Loss())
	requireSound(t, s)

	// As if Open had failed to read it.
	s.rowKey, s.keyIsKept = nil, false
	s.useKey(nil, unix.EIO)
	require.NoError(t, s.beginTotals(context.Background(), s.database))
	require.NotEmpty(t, s.Loss())
	require.NoError(t, appendEvents(context.Background(), s, mixed(2)))
	requireSound(t, s)
	require.EqualValues(t, 0, *statusOf(t, s).Totals.SumsAfter)

	// While it cannot be read, another key is used, and not stored.
	s.rowKey, s.keyIsKept = nil, false
	s.useKey(nil, unix.EIO)
	s.makeKey()
	require.NoError(t, appendEvents(context.Background(), s, mixed(1)))
	require.NotEmpty(t, s.Loss())
	require.EqualValues(t, 8, *statusOf(t, s).Totals.SumsAfter)
	written, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, key, written)
	verified(t, s)
	require.Empty(t, verified(t, s))
	require.EqualValues(t, 10, *statusOf(t, s).Totals.SumsAfter)
	require.Equal(t, key, s.rowKey)
}

// A folder with other uses may have a file key.
func TestAnotherFileNamedKeyStays(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "key")
	require.NoError(t, os.WriteFile(path, []byte("somebody's"), 0o644))
	s := openIn(t, dir, Options{})
	require.NoError(t, appendEvents(context.Background(), s, mixed(1)))
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "somebody's", string(content))
}

// Deleted rows and their forgotten EIDs do not put new events behind a cursor.
func TestEIDsContinueAfterDeletedRows(t *testing.T) {
	s := openStore(t, Options{})
	require.NoError(t, appendEvents(context.Background(), s, mixed(2)))
	hand(t, s, "DELETE FROM events; DELETE FROM sqlite_sequence")
	again := mixed(1)
	require.NoError(t, appendEvents(context.Background(), s, again))
	require.EqualValues(t, 5, again[0].EID)
	require.Contains(t, statusOf(t, s).Trouble, "instead of 3 and 3")
}

// A transaction that is rolled back leaves the totals as they were.
func TestARolledBackBatchChangesNoTotals(t *testing.T) {
	s := openStore(t, Options{MaxEvents: 1})
	require.NoError(t, appendEvents(context.Background(), s, mixed(3)))
	before := statusOf(t, s).Totals
	for _, trigger := range []string{
		"CREATE TRIGGER a BEFORE INSERT ON events WHEN NEW.name = 'alias1' BEGIN SELECT raise(FAIL, 'x'); END",
		"CREATE TRIGGER b BEFORE DELETE ON events WHEN OLD.eid = 3 BEGIN SELECT raise(FAIL, 'x'); END",
	} {
		hand(t, s, trigger)
	}
	require.Error(t, appendEvents(context.Background(), s, mixed(3)))
	require.Error(t, s.Expire(context.Background()))
	require.Equal(t, before, statusOf(t, s).Totals)
	hand(t, s, "DROP TRIGGER a; DROP TRIGGER b")
	requireSound(t, s)
	require.NoError(t, s.Expire(context.Background()))
	requireSound(t, s)
}

// A recorder starts while another process keeps the database locked, with or without totals.
func TestOpenNeedsNoWriteLock(t *testing.T) {
	for name, statement := range map[string]string{"with totals": "SELECT 1", "without": "DELETE FROM totals"} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := openIn(t, dir, Options{})
			require.NoError(t, appendEvents(context.Background(), s, mixed(2)))
			hand(t, s, statement)
			require.NoError(t, s.Close())
			db, err := openWriter(s.path, defaultBusyTimeout)
			require.NoError(t, err)
			defer db.Close()
			tx, err := db.Begin() // immediate
			require.NoError(t, err)
			s = openIn(t, dir, Options{busyTimeout: time.Millisecond})
			require.Len(t, read(t, s, kmodquery.Filter{}), 4)
			require.NoError(t, tx.Rollback())
			require.NoError(t, appendEvents(context.Background(), s, mixed(1)))
			require.Empty(t, verified(t, s))
			require.EqualValues(t, 3, *statusOf(t, s).Totals.Rows)
		})
	}
}

// The database may be gone by the time a slice of the check has read it.
func TestTheCheckEndsWithoutADatabase(t *testing.T) {
	s := openStore(t, Options{})
	require.NoError(t, s.beginTotals(context.Background(), nil))
}

// The rows of an earlier version keep their checksums. They are counted, and not summed.
func TestAnUpgradeKeepsTheRows(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, databaseName)
	require.NoError(t, os.WriteFile(path, nil, fileMode))
	db, err := openWriter(path, defaultBusyTimeout)
	require.NoError(t, err)
	for version := range 9 {
		require.NoError(t, step(context.Background(), db, version+1, migrations[version]))
	}
	var known string // the columns of that version
	require.NoError(t, db.QueryRow("SELECT group_concat(name) FROM pragma_table_info('events')").Scan(&known))
	columns := slices.DeleteFunc(slices.Clone(kmodquery.EventColumns()), func(c kmodquery.Column) bool {
		return !kmodquery.Columns(known).Has(c.Name)
	})
	require.Less(t, len(columns), len(kmodquery.EventColumns()))
	sums := newChecksummer(columns, nil)
	insert := "INSERT INTO events (" + strings.Join(columnNames(columns), ",") + ",cheap,sums) VALUES (?" + strings.Repeat(",?", len(columns)+1) + ")"
	for i, event := range mixed(3) {
		event.EID = int64(i + 1)
		values := make([]any, len(columns)+2)
		for j, column := range columns {
			values[j] = column.Value(&event)
		}
		kind := int64(i % 2)
		values[len(columns)] = kind
		values[len(columns)+1], _ = sums.of(values, kind)
		_, err := db.Exec(insert, values...)
		require.NoError(t, err)
	}
	require.NoError(t, db.Close())

	s := openIn(t, dir, Options{MaxEvents: 5})
	require.Len(t, read(t, s, kmodquery.Filter{}), 6)
	zero := rowSum{}.String()
	require.Equal(t, kmodquery.StoreTotals{
		Rows: new(int64(3)), UnprivilegedRows: new(int64(3)), Sum: zero, UnprivilegedSum: zero, SumsAfter: new(int64(6)), LastEID: new(int64(6)),
	}, statusOf(t, s).Totals)
	require.Empty(t, verified(t, s))
	require.Empty(t, statusOf(t, s).Trouble)
	require.NoError(t, appendEvents(context.Background(), s, mixed(3)))
	require.NoError(t, s.Expire(context.Background()))
	require.EqualValues(t, 5, *statusOf(t, s).Totals.Rows)
	require.Empty(t, verified(t, s))
	// A process of the earlier version that still runs takes other checksums for damage.
	var n int
	require.NoError(t, s.readers.QueryRow("SELECT count(*) FROM events WHERE length(sums) = 36").Scan(&n))
	require.Len(t, read(t, s, kmodquery.Filter{}), n)
	require.NoError(t, s.Close())

	s = openIn(t, dir, Options{})
	require.EqualValues(t, 6, *statusOf(t, s).Totals.SumsAfter)
	require.Empty(t, verified(t, s))
	hand(t, s, "UPDATE events SET name = 'x' WHERE eid = 5")
	require.Contains(t, verified(t, s), "eid 5")
	hand(t, s, "DELETE FROM events WHERE eid = 5")
	require.Contains(t, statusOf(t, s).Trouble, "4 rows and 6 unprivileged ones instead of 5 and 6")
}

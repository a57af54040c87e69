package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/test/leak"
)

func openStore(t testing.TB, o Options) *Store {
	t.Helper()
	return openIn(t, t.TempDir(), o)
}

func openIn(t testing.TB, dir string, o Options) *Store {
	t.Helper()
	leak.Check(t)
	s, err := Open(context.Background(), dir, o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// appendEvents appends events without positions and keys, and completes them as
// Append does.
func appendEvents(ctx context.Context, s *Store, events []kmodquery.Event) error {
	deliveries := make([]kmodquery.Delivery, len(events))
	for i := range events {
		deliveries[i].Event = events[i]
	}
	err := s.Append(ctx, deliveries)
	for i := range events {
		events[i] = deliveries[i].Event
	}
	return err
}

func ptr[T any](v T) *T { return &v }

// read collects copies of what f selects.
func read(t testing.TB, s *Store, f kmodquery.Filter) []kmodquery.Event {
	t.Helper()
	var events []kmodquery.Event
	require.NoError(t, s.Events(context.Background(), f, func(e *kmodquery.Event) error {
		events = append(events, *e)
		return nil
	}))
	return events
}

func eids(events []kmodquery.Event) []int64 {
	list := []int64{}
	for i := range events {
		list = append(list, events[i].EID)
	}
	return list
}

// full is an event with a value of its own in every column.
func full() kmodquery.Event {
	var e kmodquery.Event
	for i, column := range kmodquery.EventColumns() {
		number, text := int64(1000+i), "text of "+column.Name
		switch pointer := column.Pointer(&e).(type) {
		case *int64:
			*pointer = number
		case **int64:
			*pointer = &number
		case *string:
			*pointer = text
		case **string:
			*pointer = &text
		}
	}
	return e
}

func TestMigrationsAgreeWithEvent(t *testing.T) {
	s := openStore(t, Options{})
	// The store's own columns, which no event has, are named here one by one.
	rows, err := s.readers.Query("SELECT name, type, pk FROM pragma_table_info('events') WHERE name NOT IN ('cheap', 'sums')")
	require.NoError(t, err)
	defer rows.Close()
	var got []kmodquery.Column
	for rows.Next() {
		var name, kind string
		var key bool
		require.NoError(t, rows.Scan(&name, &kind, &key))
		require.Contains(t, []string{"INTEGER", "TEXT"}, kind, name)
		require.Equal(t, name == "eid", key, name)
		column, ok := kmodquery.EventColumn(name)
		require.True(t, ok, "%s is no column of an event", name)
		require.Equal(t, column.Number, kind == "INTEGER", name)
		got = append(got, column)
	}
	require.NoError(t, rows.Err())
	require.Equal(t, kmodquery.EventColumns(), got)
}

func TestMigrationsAreNumbered(t *testing.T) {
	entries, err := files.ReadDir("migrations")
	require.NoError(t, err)
	require.Len(t, migrations, len(entries))
	for i, entry := range entries {
		require.Regexp(t, fmt.Sprintf(`^%04d_[a-z_]+\.sql$`, i+1), entry.Name())
	}
}

func TestEveryColumnRoundTrips(t *testing.T) {
	s := openStore(t, Options{})
	written := []kmodquery.Event{full(), {Time: 5, TimeNanos: 6}, {Params: ptr("")}}
	require.NoError(t, appendEvents(context.Background(), s, written))
	require.EqualValues(t, 1, *written[0].FirstSeen, "the store's to say")
	require.Equal(t, []int64{1, 2, 3}, eids(written))
	require.Equal(t, []kmodquery.Event{written[2], written[1], written[0]}, read(t, s, kmodquery.Filter{}))
}

func TestTextKeepsItsBytes(t *testing.T) {
	s := openStore(t, Options{})
	texts := []string{"a\x00b", "\x00", "\xff\xfe", "\x1b[31mred", "é\u202e", strings.Repeat("x", 1<<20), "it's \"quoted\"; --"}
	for _, text := range texts {
		require.NoError(t, appendEvents(context.Background(), s, []kmodquery.Event{{Name: text, Cmdline: text}}))
	}
	for i, event := range read(t, s, kmodquery.Filter{}) {
		want := texts[len(texts)-1-i]
		require.Equal(t, want, event.Name)
		require.Equal(t, want, event.Cmdline)
	}
}

func TestOnlyTheColumnsAskedForAreRead(t *testing.T) {
	s := openStore(t, Options{})
	event := full()
	require.NoError(t, appendEvents(context.Background(), s, []kmodquery.Event{event}))
	for name, test := range map[string]struct {
		columns []string
		want    kmodquery.Event
	}{
		"none":    {[]string{}, kmodquery.Event{EID: 1, Time: event.Time}},
		"one":     {[]string{"name"}, kmodquery.Event{EID: 1, Time: event.Time, Name: event.Name}},
		"unknown": {[]string{"pid", "no_such"}, kmodquery.Event{EID: 1, Time: event.Time, Pid: event.Pid}},
		"twice":   {[]string{"eid", "pid", "pid"}, kmodquery.Event{EID: 1, Time: event.Time, Pid: event.Pid}},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, []kmodquery.Event{test.want}, read(t, s, kmodquery.Filter{Columns: test.columns}))
		})
	}
}

func TestConditions(t *testing.T) {
	s := openStore(t, Options{})
	require.NoError(t, appendEvents(context.Background(), s, []kmodquery.Event{
		{Time: 10, Name: "dummy", Pid: ptr(int64(1))},
		{Time: 20, Name: "DUMMY", Result: ptr(int64(-8))},
		{Time: 30, Name: "ip_tables", Params: ptr("")},
		{Time: 40},
	}))
	many := make([]any, maxValues+1)
	for i := range many {
		many[i] = int64(i + 1000)
	}
	is := func(column string, op kmodquery.Op, values ...any) []kmodquery.Condition {
		return []kmodquery.Condition{{Column: column, Op: op, Values: values}}
	}
	for name, test := range map[string]struct {
		conditions []kmodquery.Condition
		want       []int64
	}{
		"none":                  {nil, []int64{4, 3, 2, 1}},
		"text without case":     {is("name", kmodquery.Equal, "Dummy"), []int64{2, 1}},
		"alternatives":          {is("name", kmodquery.Equal, "dummy", "IP_TABLES", "x"), []int64{3, 2, 1}},
		"an empty text":         {is("params", kmodquery.Equal, ""), []int64{3}},
		"unknown never matches": {is("pid", kmodquery.GreaterOrEqual, int64(-1)), []int64{1}},
		"negative":              {is("result", kmodquery.Less, int64(0)), []int64{2}},
		"equal":                 {is("time", kmodquery.Equal, int64(20)), []int64{2}},
		"less":                  {is("time", kmodquery.Less, int64(20)), []int64{1}},
		"less or equal":         {is("time", kmodquery.LessOrEqual, int64(20)), []int64{2, 1}},
		"greater":               {is("time", kmodquery.Greater, int64(20)), []int64{4, 3}},
		"greater or equal":      {is("time", kmodquery.GreaterOrEqual, int64(20)), []int64{4, 3, 2}},
		"float":                 {is("time", kmodquery.Greater, 20.5), []int64{4, 3}},
		"float equal":           {is("time", kmodquery.Equal, 20.0), []int64{2}},
		"float beyond int64":    {is("time", kmodquery.Less, 1.8e19), []int64{4, 3, 2, 1}},
		"by eid":                {is("eid", kmodquery.LessOrEqual, int64(2)), []int64{2, 1}},
		"all must hold": {append(is("time", kmodquery.Greater, int64(10)), is("name", kmodquery.Equal, "dummy")...),
			[]int64{2}},
		"a value is data":          {is("name", kmodquery.Equal, "x' OR 1=1 --"), []int64{}},
		"unknown column left out":  {is("rowid; DROP TABLE events", kmodquery.Equal, "x"), []int64{4, 3, 2, 1}},
		"text for a number":        {is("pid", kmodquery.Equal, "1"), []int64{4, 3, 2, 1}},
		"number for a text":        {is("name", kmodquery.Equal, int64(1)), []int64{4, 3, 2, 1}},
		"one alternative unusable": {is("pid", kmodquery.Equal, int64(1), "x"), []int64{4, 3, 2, 1}},
		"not a number":             {is("pid", kmodquery.Equal, nan()), []int64{4, 3, 2, 1}},
		"unknown operator":         {is("pid", kmodquery.Op(99), int64(1)), []int64{4, 3, 2, 1}},
		"no value":                 {is("pid", kmodquery.Equal), []int64{4, 3, 2, 1}},
		"two values to be less":    {is("time", kmodquery.Less, int64(1), int64(2)), []int64{4, 3, 2, 1}},
		"more values than fit":     {is("time", kmodquery.Equal, many...), []int64{4, 3, 2, 1}},
		"they leave out no other":  {append(is("time", kmodquery.Equal, many...), is("name", kmodquery.Equal, "dummy")...), []int64{2, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			f := kmodquery.Filter{Conditions: test.conditions}
			require.Equal(t, test.want, eids(read(t, s, f)))
			n, err := s.Count(context.Background(), f)
			require.NoError(t, err)
			require.EqualValues(t, len(test.want), n)
		})
	}
}

func nan() float64 { zero := 0.0; return zero / zero }

// Sorting whole events would need memory for all of them before the first is
// handed out.
func TestNoQuerySortsWholeEvents(t *testing.T) {
	s := openStore(t, Options{})
	for _, where := range []string{"time > 5", "name = 'x'", "name IN ('x', 'y')", "event_name IN ('x', 'y') AND time > 5"} {
		rows, err := s.readers.Query("EXPLAIN QUERY PLAN SELECT * FROM events WHERE eid IN (SELECT eid FROM events WHERE " +
			where + ") ORDER BY eid DESC")
		require.NoError(t, err)
		for rows.Next() {
			var id, parent, unused int
			var detail string
			require.NoError(t, rows.Scan(&id, &parent, &unused, &detail))
			t.Log(where, ":", detail)
			require.NotContains(t, detail, "TEMP B-TREE")
		}
		require.NoError(t, rows.Close())
	}
}

func TestAnErrorOfVisitEndsTheReading(t *testing.T) {
	s := openStore(t, Options{})
	require.NoError(t, appendEvents(context.Background(), s, make([]kmodquery.Event, 3)))
	enough, visits := errors.New("enough"), 0
	err := s.Events(context.Background(), kmodquery.Filter{}, func(*kmodquery.Event) error { visits++; return enough })
	require.Equal(t, enough, err)
	require.Equal(t, 1, visits)
}

func TestACancelledReadIsAnError(t *testing.T) {
	s := openStore(t, Options{})
	require.NoError(t, appendEvents(context.Background(), s, make([]kmodquery.Event, 3)))
	ctx, cancel := context.WithCancel(context.Background())
	err := s.Events(ctx, kmodquery.Filter{}, func(*kmodquery.Event) error { cancel(); <-ctx.Done(); return ctx.Err() })
	require.ErrorIs(t, err, context.Canceled)
	require.Error(t, s.Events(ctx, kmodquery.Filter{}, func(*kmodquery.Event) error { return nil }))
}

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

func TestExpire(t *testing.T) {
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

func TestExpireWorksThroughManyChunks(t *testing.T) {
	s := openStore(t, Options{MaxEvents: 1})
	require.NoError(t, appendEvents(context.Background(), s, make([]kmodquery.Event, 2*expiryChunk+2)))
	require.NoError(t, s.Expire(context.Background()))
	require.Equal(t, []int64{2*expiryChunk + 2}, eids(read(t, s, kmodquery.Filter{})))
}

func TestAgeExpiresThroughManyChunks(t *testing.T) {
	s := openStore(t, Options{MaxAge: time.Second, Now: func() time.Time { return time.Unix(1000, 0) }})
	events := make([]kmodquery.Event, 2*expiryChunk+2)
	events[2*expiryChunk].Time = 1000
	require.NoError(t, appendEvents(context.Background(), s, events))
	require.NoError(t, s.Expire(context.Background()))
	require.Equal(t, []int64{2*expiryChunk + 2, 2*expiryChunk + 1}, eids(read(t, s, kmodquery.Filter{})))
}

func TestAppendExpiresNowAndThen(t *testing.T) {
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
	require.EqualValues(t, 5, rows(), "within a minute nothing is looked at")

	now = now.Add(expiryInterval)
	require.NoError(t, appendEvents(context.Background(), s, one))
	require.EqualValues(t, 3, rows(), "the two that were to stay and the new one")

	require.NoError(t, appendEvents(context.Background(), s, make([]kmodquery.Event, expiryEvents)))
	require.EqualValues(t, expiryEvents+3, rows(), "many events do not wait for the minute")
	for range 3 {
		require.NoError(t, appendEvents(context.Background(), s, one))
	}
	require.EqualValues(t, 3, rows(), "a chunk a batch until the bounds hold")
}

func TestRoles(t *testing.T) {
	dir := t.TempDir()
	recorder, err := Open(context.Background(), dir, Options{})
	require.NoError(t, err)
	reader, err := Open(context.Background(), dir, Options{})
	require.NoError(t, err)
	defer reader.Close()

	event := []kmodquery.Event{{Time: 7, Name: "dummy"}}
	require.ErrorContains(t, appendEvents(context.Background(), reader, event), "another process records")
	require.ErrorContains(t, reader.Expire(context.Background()), "another process records")
	_, err = reader.readers.Exec("DELETE FROM events")
	require.Error(t, err)
	require.NoError(t, appendEvents(context.Background(), recorder, event))
	require.Len(t, read(t, reader, kmodquery.Filter{}), 1)

	path := filepath.Join(dir, databaseName)
	for _, test := range []struct {
		store *Store
		role  string
	}{{recorder, kmodquery.RoleRecorder}, {reader, kmodquery.RoleReader}} {
		status, err := test.store.Status(context.Background())
		require.NoError(t, err)
		require.Positive(t, status.Bytes)
		status.Bytes = 0
		require.Equal(t, kmodquery.StoreStatus{Path: path, Role: test.role, Rows: 1, OldestTime: 7}, status)
	}

	require.NoError(t, recorder.Close())
	next := openIn(t, dir, Options{})
	require.NoError(t, appendEvents(context.Background(), next, event), "the lock fell free")
}

func TestModes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a?b#c%20d", "state")
	s := openIn(t, dir, Options{})
	require.NoError(t, appendEvents(context.Background(), s, []kmodquery.Event{{Time: 1}}))
	info, err := os.Stat(dir)
	require.NoError(t, err)
	require.Equal(t, os.ModeDir|0o700, info.Mode())
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	names := []string{}
	for _, entry := range entries {
		info, err := entry.Info()
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode(), entry.Name())
		names = append(names, entry.Name())
	}
	require.ElementsMatch(t, []string{"events.db", "events.db-wal", "events.db-shm", "lock"}, names)
}

func TestOpenRefusesWhatItDoesNotKnow(t *testing.T) {
	database := func(script string) []byte {
		path := filepath.Join(t.TempDir(), "x.db")
		db, err := sql.Open("sqlite", path)
		require.NoError(t, err)
		_, err = db.Exec(script)
		require.NoError(t, err)
		require.NoError(t, db.Close())
		content, err := os.ReadFile(path)
		require.NoError(t, err)
		return content
	}
	newer := fmt.Sprintf("PRAGMA application_id = %d; PRAGMA user_version = %d; CREATE TABLE events (x)", applicationID, len(migrations)+1)
	for name, test := range map[string]struct {
		content []byte
		want    string
	}{
		"a short text":      {[]byte("hello\n"), "is no SQLite database; move it away"},
		"a long text":       {[]byte(strings.Repeat("hello\n", 10_000)), "is no SQLite database; move it away"},
		"a newer schema":    {database(newer), "use the newer program"},
		"another program's": {database("CREATE TABLE accounts (name)"), "is a database of another program"},
		"another's version": {database("PRAGMA user_version = 1"), "is a database of another program"},
	} {
		for _, role := range []string{kmodquery.RoleRecorder, kmodquery.RoleReader} {
			t.Run(name+" for a "+role, func(t *testing.T) {
				dir := t.TempDir()
				path := filepath.Join(dir, databaseName)
				require.NoError(t, os.WriteFile(path, test.content, 0o600))
				if role == kmodquery.RoleReader {
					lock, err := tryLock(dir)
					require.NoError(t, err)
					defer lock.Close()
				}
				_, err := Open(context.Background(), dir, Options{})
				require.ErrorContains(t, err, test.want)
				require.ErrorContains(t, err, path)
				require.NotContains(t, err.Error(), "\n")
				content, err := os.ReadFile(path)
				require.NoError(t, err)
				require.Equal(t, test.content, content)
				entries, err := os.ReadDir(dir)
				require.NoError(t, err)
				require.Len(t, entries, 2, "the database and the lock")
			})
		}
	}
}

func TestAnEmptyFileBecomesAStore(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, databaseName), nil, 0o600))
	require.NoError(t, appendEvents(context.Background(), openIn(t, dir, Options{}), make([]kmodquery.Event, 1)))
}

func TestAnUnfinishedDatabaseIsMadeAnew(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"events.db.new", "events.db.new-wal"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("cut off"), 0o600))
	}
	require.NoError(t, appendEvents(context.Background(), openIn(t, dir, Options{}), make([]kmodquery.Event, 1)))
}

func TestOpenSaysWhyAFolderIsNoGood(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	closed := filepath.Join(t.TempDir(), "closed")
	require.NoError(t, os.Mkdir(closed, 0o500))
	folder := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(folder, databaseName), 0o700))
	for name, test := range map[string]struct{ dir, want string }{
		"a file":               {file, "not a directory"},
		"below a file":         {filepath.Join(file, "state"), "not a directory"},
		"nothing can be there": {"/proc/self/kmodquery", "/proc/self/kmodquery"},
		"no permission":        {closed, "permission denied"},
		"another folder in it": {folder, "events.db cannot be opened"},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "no permission" && os.Getuid() == 0 {
				t.Skip("root may write everywhere")
			}
			_, err := Open(context.Background(), test.dir, Options{})
			require.ErrorContains(t, err, "open event store: ")
			require.ErrorContains(t, err, test.want)
			require.ErrorContains(t, err, "choose another state folder")
			require.NotContains(t, err.Error(), "\n")
		})
	}
}

func TestAReaderWaitsForTheRecorder(t *testing.T) {
	dir := t.TempDir()
	lock, err := tryLock(dir)
	require.NoError(t, err)
	opened := make(chan error)
	go func() {
		s, err := Open(context.Background(), dir, Options{})
		if err == nil {
			err = s.Close()
		}
		opened <- err
	}()
	require.NoError(t, create(context.Background(), filepath.Join(dir, databaseName), defaultBusyTimeout))
	require.NoError(t, <-opened)
	require.NoError(t, lock.Close())
}

func TestAReaderWaitsNoLongerThanItsContext(t *testing.T) {
	dir := t.TempDir()
	lock, err := tryLock(dir)
	require.NoError(t, err)
	defer lock.Close()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = Open(ctx, dir, Options{})
	require.ErrorIs(t, err, context.Canceled)
}

func TestManyOpenAtOnceAndOneRecords(t *testing.T) {
	dir := t.TempDir()
	stores := make([]*Store, 8)
	var group sync.WaitGroup
	for i := range stores {
		group.Go(func() {
			var err error
			stores[i], err = Open(context.Background(), dir, Options{})
			if err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	require.False(t, t.Failed())
	recorders := 0
	for _, s := range stores {
		status, err := s.Status(context.Background())
		require.NoError(t, err)
		if status.Role == kmodquery.RoleRecorder {
			recorders++
		}
	}
	require.Equal(t, 1, recorders)
	for _, s := range stores {
		require.NoError(t, s.Close())
	}
}

func TestReadersSeeWholeBatches(t *testing.T) {
	dir := t.TempDir()
	recorder := openIn(t, dir, Options{})
	reader := openIn(t, dir, Options{})
	const batches, size = 50, 20
	var group sync.WaitGroup
	group.Go(func() {
		for range batches {
			if err := appendEvents(context.Background(), recorder, make([]kmodquery.Event, size)); err != nil {
				t.Error(err)
			}
		}
	})
	for _, s := range []*Store{recorder, reader} {
		group.Go(func() {
			for n := 0; n < batches*size && !t.Failed(); {
				n = 0
				err := s.Events(context.Background(), kmodquery.Filter{}, func(*kmodquery.Event) error { n++; return nil })
				if err != nil || n%size != 0 {
					t.Errorf("read %d events: %v", n, err)
				}
			}
		})
	}
	group.Wait()
}

// Somebody reads, for as long as they like, and others do too.
func TestWhoReadsDoesNotHoldUpWhatIsStored(t *testing.T) {
	s := openStore(t, Options{})
	require.NoError(t, appendEvents(t.Context(), s, []kmodquery.Event{full()}))
	reading := 0
	err := s.Events(t.Context(), kmodquery.Filter{}, func(*kmodquery.Event) error {
		reading++
		appended := make(chan error, 1)
		go func() { appended <- appendEvents(t.Context(), s, []kmodquery.Event{full()}) }()
		select {
		case err := <-appended:
			require.NoError(t, err)
		case <-time.After(20 * time.Second):
			require.Fail(t, "the events wait")
		}
		require.Len(t, read(t, s, kmodquery.Filter{}), 2)
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, 1, reading)
}

// Readers that overlap all the time do not let the log grow for ever.
func TestTheLogIsShortenedThoughSomebodyAlwaysReads(t *testing.T) {
	elapsed := time.Hour
	s := openStore(t, Options{elapsed: func() time.Duration { return elapsed }})
	s.walLimit = 1 << 20
	batch := make([]kmodquery.Event, 500)
	for i := range batch {
		batch[i] = full()
	}
	require.NoError(t, appendEvents(t.Context(), s, batch))
	ctx, stop := context.WithCancel(t.Context())
	var reading sync.WaitGroup
	for range 3 {
		reading.Go(func() {
			for ctx.Err() == nil {
				if err := s.Events(ctx, kmodquery.Filter{}, func(*kmodquery.Event) error { return nil }); err != nil && ctx.Err() == nil {
					t.Error(err)
				}
			}
		})
	}
	truncatedAt := 0
	for truncatedAt < 3 {
		before := sizeOf(s.path + "-wal")
		elapsed += truncateInterval
		require.NoError(t, appendEvents(t.Context(), s, batch[:20]))
		after := sizeOf(s.path + "-wal")
		require.Less(t, after, 4*s.walLimit)
		if after < before {
			truncatedAt++
		}
	}
	stop()
	reading.Wait()
}

func TestTextIsEqualUnderEveryCollation(t *testing.T) {
	s := openStore(t, Options{})
	names := []string{"dummy", "Dummy", "dummy ", "dummy  ", "dummy!", "dummy x", "dumm"}
	events := make([]kmodquery.Event, len(names))
	for i := range events {
		events[i].Name = names[i]
	}
	require.NoError(t, appendEvents(context.Background(), s, events))
	for _, value := range []string{"dummy", "DUMMY", "dummy   "} {
		got := eids(read(t, s, kmodquery.Filter{Conditions: []kmodquery.Condition{
			{Column: "name", Op: kmodquery.Equal, Values: []any{value}},
		}}))
		require.Subset(t, got, []int64{4, 3, 2, 1}, value)
		require.NotContains(t, got, int64(5), value)
		require.NotContains(t, got, int64(7), value)
	}
}

// What Recall hands over says as much as all events do of what happened last to
// each name.
func TestRecall(t *testing.T) {
	s := openStore(t, Options{})
	f := kmodquery.Filter{
		Conditions: []kmodquery.Condition{
			{Column: "boot_id", Op: kmodquery.Equal, Values: []any{"this"}},
			{Column: "event_name", Op: kmodquery.Equal, Values: []any{"module_load", "module_free"}},
		},
		Columns: []string{"name", "event_name", "source", "uptime", "time_nanos", "result"},
	}
	recall := func(newest int64) (eids []int64) {
		require.NoError(t, s.Replay(t.Context(), f, newest, func(e *kmodquery.Event) { eids = append(eids, e.EID) }))
		return eids
	}
	require.Empty(t, recall(3))

	const hour = 3600
	at := func(name, eventName string, uptime, nanos int64, change ...func(*kmodquery.Event)) kmodquery.Event {
		e := kmodquery.Event{BootID: "this", Source: "ebpf", Name: name, EventName: eventName, Uptime: &uptime, TimeNanos: 1_790_000_000_000_000_000 + nanos}
		for _, c := range change {
			c(&e)
		}
		return e
	}
	untimed := func(e *kmodquery.Event) { e.Uptime = nil }
	var want []int64
	var events []kmodquery.Event
	add := func(isWanted bool, e kmodquery.Event) {
		events = append(events, e)
		if isWanted {
			want = append(want, int64(len(events)))
		}
	}
	add(false, at("a", "module_load", 5, 0))
	add(true, at("a", "module_load", 7, -9*hour*1e9)) // the clock was set back
	add(false, at("a", "module_load", 6, 9*hour*1e9)) // stored late
	add(true, at("a", "module_free", 6, 0))
	add(true, at("A", "module_load", 1, 0)) // another module
	add(false, at("b", "module_load", 5, 1000))
	add(true, at("b", "module_load", 5, 3000)) // in the same second
	add(false, at("b", "module_load", 5, 2000))
	add(true, at("b", "module_load", 9, 0, func(e *kmodquery.Event) { e.Result = new(int64(-8)) }))
	add(false, at("b", "module_load", 2, 0, func(e *kmodquery.Event) { e.Result = new(int64(0)) }))
	add(true, at("b", "module_load", 1, 0, func(e *kmodquery.Event) { e.Source = "kmsg" }))
	add(false, at("c", "module_load", 0, 1, untimed))
	add(true, at("c", "module_load", 0, 20*hour*1e9, untimed))
	add(false, at("c", "module_load", 0, 15*hour*1e9, untimed))
	add(true, at("c", "module_load", 3, 0))
	add(false, at("d", "module_load", 3, 0, func(e *kmodquery.Event) { e.BootID = "another" }))
	add(false, at("d", "init_module", 3, 0))
	require.NoError(t, appendEvents(t.Context(), s, events))
	slices.Reverse(want)
	require.Equal(t, want, recall(0))
	require.Equal(t, want, recall(2), "of which none is selected")
	require.Equal(t, []int64{15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1}, recall(1000))
	require.Equal(t, []int64{15, 14, 13, 12, 11, 9, 7, 5, 4, 2}, recall(6))
}

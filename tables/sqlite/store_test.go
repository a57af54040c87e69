package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
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

// appendEvents appends events without positions and keys, and sets their fields as Append
// does.
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

// read returns copies of the events that f selects.
func read(t testing.TB, s *Store, f kmodquery.Filter) []kmodquery.Event {
	t.Helper()
	var events []kmodquery.Event
	require.NoError(t, s.Events(context.Background(), f, func(e *kmodquery.Event) error {
		events = append(events, *e)
		return nil
	}))
	return events
}

// The tables recover from panics. A writer that waits for the readers must not wait for one
// that panicked.
func TestAReaderThatPanicsDoesNotBlockWrites(t *testing.T) {
	s := openStore(t, Options{})
	require.NoError(t, appendEvents(context.Background(), s, make([]kmodquery.Event, 1)))
	require.Panics(t, func() {
		_ = s.Events(context.Background(), kmodquery.Filter{}, func(*kmodquery.Event) error { panic("in a table") })
	})
	require.True(t, s.gate.TryLock())
	s.gate.Unlock()
	s.walLimit = 0 // the next batch waits for the readers
	require.NoError(t, appendEvents(context.Background(), s, make([]kmodquery.Event, 1)))
	require.Len(t, read(t, s, kmodquery.Filter{}), 2)
}

func eids(events []kmodquery.Event) []int64 {
	list := []int64{}
	for i := range events {
		list = append(list, events[i].EID)
	}
	return list
}

// full returns an event with a different value in every column.
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

func nan() float64 { zero := 0.0; return zero / zero }

func TestTheFirstProcessRecordsAndOthersRead(t *testing.T) {
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
		require.EqualValues(t, 1, *status.Totals.Rows)
		status.Bytes, status.Totals = 0, kmodquery.StoreTotals{}
		require.Equal(t, kmodquery.StoreStatus{Path: path, Role: test.role, Rows: 1, OldestTime: 7, FirstEID: 1}, status)
	}

	require.NoError(t, recorder.Close())
	next := openIn(t, dir, Options{})
	require.NoError(t, appendEvents(context.Background(), next, event), "the lock is free")
}

func TestFilesAreReadableByTheirOwnerOnly(t *testing.T) {
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
	require.ElementsMatch(t, []string{"events.db", "events.db-wal", "events.db-shm", "events.key", "lock"}, names)
}

func TestOpenRefusesOtherFiles(t *testing.T) {
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

func TestAnUnfinishedDatabaseIsRecreated(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"events.db.new", "events.db.new-wal"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("cut off"), 0o600))
	}
	require.NoError(t, appendEvents(context.Background(), openIn(t, dir, Options{}), make([]kmodquery.Event, 1)))
}

func TestOpenExplainsAnUnusableFolder(t *testing.T) {
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

func TestAReaderStopsWaitingWithItsContext(t *testing.T) {
	dir := t.TempDir()
	lock, err := tryLock(dir)
	require.NoError(t, err)
	defer lock.Close()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = Open(ctx, dir, Options{})
	require.ErrorIs(t, err, context.Canceled)
}

func TestOneOfManyProcessesRecords(t *testing.T) {
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

// A disk that hangs may hold the store for ever.
func TestStatusOfAStoreThatHangs(t *testing.T) {
	s := openStore(t, Options{})
	s.gate.Lock()
	s.damaged.Add(3)
	for range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			for s.statuses.Running() == 0 {
				runtime.Gosched()
			}
			cancel()
		}()
		status, err := s.Status(ctx)
		require.EqualError(t, err, s.path+" does not answer; its disk may hang")
		require.Equal(t, kmodquery.StoreStatus{Path: s.path, Role: kmodquery.RoleRecorder, Damaged: 3}, status)
	}
	require.Equal(t, 1, s.statuses.Running(), "each query leaves a goroutine behind")
	// The next query waits for it.
	s.statuses.Patience = time.Minute
	time.AfterFunc(time.Millisecond, s.gate.Unlock)
	_, err := s.Status(t.Context())
	require.NoError(t, err)
}

func TestCloseWaitsForAnAbandonedStatus(t *testing.T) {
	s, err := Open(t.Context(), t.TempDir(), Options{})
	require.NoError(t, err)
	s.gate.Lock()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		for s.statuses.Running() == 0 {
			runtime.Gosched()
		}
		cancel()
	}()
	_, err = s.Status(ctx)
	require.Error(t, err)
	s.statuses.Patience = time.Minute
	time.AfterFunc(time.Millisecond, s.gate.Unlock)
	require.NoError(t, s.Close())
	require.Zero(t, s.statuses.Running())
}

func TestReadOnlyStoreNeverRecords(t *testing.T) {
	dir := t.TempDir()
	recorder, err := Open(t.Context(), dir, Options{})
	require.NoError(t, err)
	require.NoError(t, recorder.Append(t.Context(), make([]kmodquery.Delivery, 3)))
	require.NoError(t, recorder.Close())
	s, err := Open(t.Context(), dir, Options{ReadOnly: true})
	require.NoError(t, err)
	defer s.Close()
	free, err := IsFree(dir)
	require.NoError(t, err)
	require.True(t, free)
	last, err := s.LastEID(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 3, last)
	require.Error(t, s.Append(t.Context(), make([]kmodquery.Delivery, 1)))
}

//go:build linux

package sqlite

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

// The next read or write finds damage to an open store, and the current batch is
// stored.
func TestADamagedStoreIsRecreatedWhileOpen(t *testing.T) {
	for name, test := range map[string]func(t *testing.T, s *Store){
		"found by a reader": func(t *testing.T, s *Store) {
			err := s.Events(context.Background(), kmodquery.Filter{}, func(*kmodquery.Event) error { return nil })
			require.True(t, isDamage(err), "%v", err)
			require.Empty(t, read(t, s, kmodquery.Filter{}))
		},
		"found by the writer": func(*testing.T, *Store) {},
		"found by expiry": func(t *testing.T, s *Store) {
			require.NoError(t, s.Expire(context.Background()))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			var said []string
			s, err := Open(context.Background(), dir, Options{
				MaxAge: 1,
				Now:    func() time.Time { return time.Date(2026, 11, 24, 17, 15, 0, 0, time.UTC) },
				Report: func(err error) { said = append(said, err.Error()) },
			})
			require.NoError(t, err)
			defer func() { require.NoError(t, s.Close()) }()
			first := make([]kmodquery.Event, 500)
			require.NoError(t, appendEvents(context.Background(), s, first))
			other := openIn(t, dir, Options{})
			require.Len(t, read(t, other, kmodquery.Filter{}), len(first))
			breakOpen(t, s)

			test(t, s)
			batch := make([]kmodquery.Event, 3)
			require.NoError(t, appendEvents(context.Background(), s, batch))
			require.Equal(t, []int64{batch[2].EID, batch[1].EID, batch[0].EID}, eids(read(t, s, kmodquery.Filter{})))
			require.Greater(t, batch[0].EID, first[len(first)-1].EID, "no EID is assigned twice")
			require.Len(t, said, 1)
			require.Contains(t, said[0], "was damaged and is now "+filepath.Join(dir, "events.db.damaged-20261124T171500Z"))
			require.NotContains(t, said[0], "\n")
			require.FileExists(t, filepath.Join(dir, "events.db.damaged-20261124T171500Z"))
			status, err := s.Status(context.Background())
			require.NoError(t, err)
			require.Contains(t, status.Trouble, "(1 of them")

			require.Len(t, read(t, other, kmodquery.Filter{}), 3, "a reader in another store opens the new database")
			status, err = other.Status(context.Background())
			require.NoError(t, err)
			require.Contains(t, status.Trouble, "(1 of them")
		})
	}
}

// breakOpen destroys the database of an open store, with its log and caches.
func breakOpen(t *testing.T, s *Store) {
	t.Helper()
	require.NoError(t, s.checkpoint(context.Background()))
	info, err := os.Stat(s.path)
	require.NoError(t, err)
	noise := make([]byte, info.Size())
	for i := range noise {
		noise[i] = byte(i*7 + 1)
	}
	require.NoError(t, overwrite(s.path, noise))
	// A change by another connection makes SQLite read its pages again.
	for _, pool := range []interface{ SetMaxIdleConns(int) }{s.readers, s.writer} {
		pool.SetMaxIdleConns(0)
		pool.SetMaxIdleConns(readers)
	}
}

// overwrite writes in another process: a close in this one would end SQLite's locks.
func overwrite(path string, content []byte) error {
	command := writerOf(path)
	stdin, err := command.StdinPipe()
	if err != nil {
		return err
	}
	if err := command.Start(); err != nil {
		return err
	}
	_, err = stdin.Write(content)
	return errors.Join(err, stdin.Close(), command.Wait())
}

func TestAWriteAheadLogWithoutItsDatabaseIsSetAside(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(context.Background(), dir, Options{})
	require.NoError(t, err)
	require.NoError(t, appendEvents(context.Background(), s, []kmodquery.Event{{Name: "old"}}))
	log, err := os.ReadFile(s.path + "-wal")
	require.NoError(t, err)
	require.NoError(t, s.Close())
	require.NoError(t, os.Remove(s.path))
	require.NoError(t, os.WriteFile(s.path+"-wal", log, 0o600))

	s = openIn(t, dir, Options{})
	require.Empty(t, read(t, s, kmodquery.Filter{}))
	left, err := filepath.Glob(filepath.Join(dir, "events.db.damaged-*-wal"))
	require.NoError(t, err)
	require.Len(t, left, 1)
	content, err := os.ReadFile(left[0])
	require.NoError(t, err)
	require.Equal(t, log, content)
}

func TestGarbageInPlaceOfADatabaseIsSetAside(t *testing.T) {
	for name, content := range map[string]string{"short": "hello\x00", "long": strings.Repeat("hello\x00", 10_000), "text in place of a database": "hello"} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			require.NoError(t, os.WriteFile(filepath.Join(dir, databaseName), []byte(content), 0o600))
			if name == "text in place of a database" {
				leaveLockState(t, dir, 0)
			}
			s := openIn(t, dir, Options{})
			require.NoError(t, appendEvents(context.Background(), s, make([]kmodquery.Event, 1)))
			left, err := filepath.Glob(filepath.Join(dir, "events.db.damaged-*Z"))
			require.NoError(t, err)
			require.Len(t, left, 1)
			kept, err := os.ReadFile(left[0])
			require.NoError(t, err)
			require.Equal(t, content, string(kept))
		})
	}
}

// Damaged copies may not fill the disk, and none is deleted.
func TestDamagedCopiesTakeNoMoreThanTheFreeSpace(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, databaseName)
	huge := path + damagedInfix + "20200101T000000Z"
	require.NoError(t, os.WriteFile(huge, nil, 0o600))
	require.NoError(t, os.Truncate(huge, 1<<42)) // of holes
	free, _ := freeBytes(dir)
	if info, err := os.Stat(huge); err != nil || info.Size() < free {
		t.Skip("this file system has no files larger than its free space")
	}
	require.NoError(t, os.WriteFile(path, []byte("garbage\x00"), 0o600))
	_, err := Open(context.Background(), dir, Options{})
	require.ErrorContains(t, err, "1 damaged event stores in "+dir+" take more space than is free; move them away")
	require.FileExists(t, path)
	require.NoError(t, os.Remove(huge))
	openIn(t, dir, Options{})
}

func TestDamagedCopiesOfOneSecondHaveDifferentNames(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, databaseName)
	names := map[string]bool{}
	for range 5 {
		require.NoError(t, os.WriteFile(path, []byte("x"), 0o600))
		require.NoError(t, os.WriteFile(path+"-wal", []byte("y"), 0o600))
		copied, err := setAside(path, time.Unix(0, 0))
		require.NoError(t, err)
		names[copied] = true
		require.FileExists(t, copied+"-wal")
	}
	require.Len(t, names, 5)
	count, bytes := damagedCopies(dir)
	require.Equal(t, 5, count)
	require.EqualValues(t, 10, bytes)
}

// On a disk that damages everything, the store is recreated once a minute at most.
func TestRecreationsAreLimitedInFrequency(t *testing.T) {
	elapsed := time.Second
	s := openStore(t, Options{Elapsed: func() time.Duration { return elapsed }})
	copies := func() int {
		n, _ := damagedCopies(filepath.Dir(s.path))
		return n
	}
	require.NoError(t, appendEvents(context.Background(), s, make([]kmodquery.Event, 100)))
	breakOpen(t, s)
	require.NoError(t, appendEvents(context.Background(), s, make([]kmodquery.Event, 100)))
	require.Equal(t, 1, copies())
	breakOpen(t, s)
	err := appendEvents(context.Background(), s, make([]kmodquery.Event, 100))
	require.ErrorContains(t, err, "store: the database is damaged")
	require.Equal(t, 1, copies())
	elapsed += recreateInterval
	require.NoError(t, appendEvents(context.Background(), s, make([]kmodquery.Event, 100)))
	require.Equal(t, 2, copies())
}

// Queries continue while the store is damaged repeatedly, and each batch is stored or
// refused.
func TestQueriesContinueWhileTheStoreIsDamaged(t *testing.T) {
	var elapsed atomic.Int64
	errInvented := errors.New("an event was never written")
	dir := t.TempDir()
	s := openIn(t, dir, Options{Elapsed: func() time.Duration { return time.Duration(elapsed.Add(int64(2 * recreateInterval))) }})
	other := openIn(t, dir, Options{})
	done := make(chan struct{})
	var group sync.WaitGroup
	stop := sync.OnceFunc(func() {
		close(done)
		group.Wait()
	})
	t.Cleanup(stop)
	for _, store := range []*Store{s, s, other, other} {
		group.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				err := store.Events(context.Background(), kmodquery.Filter{}, func(e *kmodquery.Event) error {
					if e.Name != fmt.Sprint("n", e.Time) {
						return fmt.Errorf("%w: %s at %d", errInvented, e.Name, e.Time)
					}
					return nil
				})
				// A reader may get any error while the file is being renamed.
				if err != nil && (errors.Is(err, errInvented) || store == s && !isDamage(err)) {
					t.Error(err)
				}
				_, _ = store.Status(context.Background())
			}
		})
	}
	stored := 0
	for i := range 40 {
		batch := make([]kmodquery.Event, 50)
		for j := range batch {
			batch[j] = kmodquery.Event{Time: int64(i), Name: fmt.Sprint("n", i)}
		}
		if err := appendEvents(context.Background(), s, batch); err == nil {
			stored++
		} else {
			require.True(t, isDamage(err), "%v", err)
		}
		if i%10 == 5 {
			for _, path := range []string{s.path, s.path + "-wal"} {
				// A query may find the damage first and set the files aside.
				_ = overwrite(path, bytes.Repeat([]byte{7, 0}, int(sizeOf(path)/2)))
			}
		}
	}
	stop()
	require.Greater(t, stored, 20)
	copies, _ := damagedCopies(dir)
	require.Positive(t, copies)
}

func TestARemovedStoreIsRecreated(t *testing.T) {
	var said []string
	dir := t.TempDir()
	s := openIn(t, dir, Options{Report: func(err error) { said = append(said, err.Error()) }})
	other := openIn(t, dir, Options{})
	first := make([]kmodquery.Event, 2)
	require.NoError(t, appendEvents(context.Background(), s, first))
	for _, companion := range companions {
		if err := os.Remove(s.path + companion); !errors.Is(err, os.ErrNotExist) {
			require.NoError(t, err)
		}
	}
	require.Len(t, read(t, other, kmodquery.Filter{}), 2, "an open database cannot be read")
	again := make([]kmodquery.Event, 1)
	require.NoError(t, appendEvents(context.Background(), s, again))
	require.Greater(t, again[0].EID, first[1].EID)
	require.Len(t, read(t, s, kmodquery.Filter{}), 1)
	require.Len(t, read(t, other, kmodquery.Filter{}), 1)
	require.Equal(t, []string{
		s.path + " was removed or replaced; the event store continues with another one",
		"events between eid 0 and eid 2 are lost: the database was removed or an older one put in its place",
	}, said)
	require.Equal(t, said[1], statusOf(t, s).Trouble)
}

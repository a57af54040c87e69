//go:build linux

package sqlite

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/test/suite"
)

const pageSize = 4096

// A template is the files of a store at one moment, and its events.
type template struct {
	name   string
	files  map[string][]byte
	events map[int64]kmodquery.Event
}

// distinct returns deliveries of events whose values no other seed has.
func distinct(random *rand.Rand, n int) []kmodquery.Delivery {
	deliveries := make([]kmodquery.Delivery, n)
	for i := range deliveries {
		e := full()
		mark := random.Int64N(1 << 40)
		e.Time, e.TimeNanos, e.Pid = 1_790_000_000+int64(i), mark, &mark
		e.Name, e.Path = fmt.Sprintf("module_%d", i%7), fmt.Sprintf("/lib/%x.ko", mark)
		e.SHA256, e.LoadID = fmt.Sprintf("%064x", mark), fmt.Sprintf("boot-%x", mark)
		e.Source = "kmsg"
		position := fmt.Sprint(i)
		if i%5 == 0 {
			e.Cmdline = strings.Repeat(fmt.Sprintf("%x ", mark), 1000) // more than a page
		}
		if i%3 == 0 {
			e = kmodquery.Event{Time: e.Time, EventName: kmodquery.EventModuleRequest, Name: e.Name, LoadID: e.LoadID}
			position = ""
		}
		deliveries[i] = kmodquery.Delivery{Event: e, Position: position}
	}
	return deliveries
}

// templates returns a store that was closed, and one whose process was killed with a
// long write-ahead log.
func templates(t *testing.T, random *rand.Rand) []template {
	t.Helper()
	var all []template
	for _, name := range []string{"closed", "killed"} {
		dir := t.TempDir()
		s, err := Open(context.Background(), dir, Options{})
		require.NoError(t, err)
		written := map[int64]kmodquery.Event{}
		for range 6 {
			deliveries := distinct(random, 12)
			require.NoError(t, s.Append(context.Background(), deliveries))
			for _, d := range deliveries {
				written[d.Event.EID] = d.Event
			}
		}
		if name == "closed" {
			require.NoError(t, s.Close())
		}
		files := map[string][]byte{}
		for _, file := range []string{databaseName, databaseName + "-wal"} {
			content, err := os.ReadFile(filepath.Join(dir, file))
			if file == databaseName {
				require.NoError(t, err)
			}
			if err == nil {
				files[file] = content
			}
		}
		if name == "killed" {
			require.NoError(t, s.Close())
			require.Contains(t, files, databaseName+"-wal")
		}
		all = append(all, template{name, files, written})
	}
	return all
}

// lay writes a damaged copy into dir, with the lock state of its recorder.
func (tm *template) lay(t *testing.T, random *rand.Rand, dir string) {
	t.Helper()
	names := make([]string, 0, len(tm.files))
	for _, name := range []string{databaseName, databaseName + "-wal"} {
		if len(tm.files[name]) > 0 {
			names = append(names, name)
		}
	}
	broken := names[random.IntN(len(names))]
	for _, name := range names {
		content := tm.files[name]
		if name == broken {
			content = damage(random, content)
		}
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), content, 0o600))
	}
	leaveLockState(t, dir, int64(len(tm.events)))
}

func leaveLockState(t *testing.T, dir string, last int64) {
	t.Helper()
	info, err := os.Lstat(filepath.Join(dir, databaseName))
	require.NoError(t, err)
	lock, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	require.NoError(t, err)
	m := lockState{Schema: len(migrations), LastEID: last}
	m.Device, m.Inode = identity(info)
	require.NoError(t, writeLockState(lock, m))
	require.NoError(t, lock.Close())
}

// damage returns a copy of a file with bytes flipped, overwritten, exchanged or cut
// off.
func damage(random *rand.Rand, content []byte) []byte {
	content = append([]byte(nil), content...)
	for range 1 + random.IntN(6) {
		if len(content) == 0 {
			break
		}
		pages := (len(content) + pageSize - 1) / pageSize
		from := random.IntN(pages) * pageSize
		page := content[from:min(from+pageSize, len(content))]
		at := random.IntN(len(page))
		switch random.IntN(8) {
		case 0, 1, 2:
			page[at] ^= 1 << random.IntN(8)
		case 3:
			page[at] = byte(random.Uint32())
		case 4:
			for i := at; i < min(len(page), at+random.IntN(256)); i++ {
				page[i] = byte(random.Uint32())
			}
		case 5:
			clear(page)
		case 6:
			other := content[random.IntN(pages)*pageSize:]
			copy(page, other[:min(len(other), pageSize)])
		case 7:
			cut := from
			if random.IntN(2) == 0 {
				cut += at
			}
			content = content[:cut]
		}
	}
	return content
}

// A store whose files are damaged in any way opens, perhaps recreated, and serves
// nothing that was not written.
func TestDamagedStoresServeOnlyWhatWasWritten(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("DAMAGE_SEED"); text != "" {
		_, err := fmt.Sscan(text, &seed)
		require.NoError(t, err)
	}
	t.Logf("DAMAGE_SEED=%d", seed)
	all := templates(t, rand.New(rand.NewPCG(seed, 0)))

	const workers = 4 // most of them wait for the disk
	rounds := suite.Trials(1000)
	outcomes := make([]map[string]int, workers)
	var group sync.WaitGroup
	for worker := range workers {
		outcomes[worker] = map[string]int{}
		group.Go(func() {
			for round := worker; round < rounds; round += workers {
				random := rand.New(rand.NewPCG(seed, uint64(round+1)))
				tm := &all[random.IntN(len(all))]
				ok := t.Run(fmt.Sprintf("%d of a %s store", round, tm.name), func(t *testing.T) {
					outcomes[worker][serveDamaged(t, random, tm)]++
				})
				if !ok {
					return
				}
			}
		})
	}
	group.Wait()
	sum := map[string]int{}
	for _, outcome := range outcomes {
		for name, n := range outcome {
			sum[name] += n
		}
	}
	t.Log(sum)
	// In fewer rounds a rare outcome may be absent.
	if !t.Failed() && rounds >= 250 {
		require.Positive(t, sum["recreated"])
		require.Positive(t, sum["whole"])
		require.Positive(t, sum["rows left out"])
		require.Positive(t, sum["log truncated"])
	}
}

// serveDamaged opens a damaged store, compares all that it serves with what was
// written, and returns the outcome.
func serveDamaged(t *testing.T, random *rand.Rand, tm *template) (outcome string) {
	dir := t.TempDir()
	tm.lay(t, random, dir)
	s, err := Open(context.Background(), dir, Options{MaxEvents: 1000, MaxAge: 24 * time.Hour, Now: func() time.Time { return time.Unix(1_790_000_100, 0) }})
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	require.NoError(t, s.Expire(context.Background()))

	written := map[int64]kmodquery.Event{}
	for eid, e := range tm.events {
		written[eid] = e
	}
	filters := []kmodquery.Filter{
		{},
		{Conditions: []kmodquery.Condition{{Column: "name", Op: kmodquery.Equal, Values: []any{"module_3"}}}},
		{Conditions: []kmodquery.Condition{{Column: "time", Op: kmodquery.Greater, Values: []any{int64(1_790_000_005)}}}, Columns: []string{"path", "pid", "params"}},
		{Columns: []string{}},
	}
	served := 0
	look := func() {
		t.Helper()
		for _, f := range filters {
			seen := map[int64]bool{}
			err := s.Events(context.Background(), f, func(e *kmodquery.Event) error {
				want, ok := written[e.EID]
				require.True(t, ok, "event %d was never written", e.EID)
				require.False(t, seen[e.EID], "event %d is served twice", e.EID)
				seen[e.EID] = true
				require.Equal(t, only(want, f.Columns), *e)
				return nil
			})
			require.True(t, err == nil || isDamage(err), "%v", err)
			served = max(served, len(seen))
		}
		position, err := s.Position(context.Background(), "kmsg")
		require.True(t, err == nil || isDamage(err), "%v", err)
		if position != "" {
			require.Contains(t, []string{"11", "10", "new"}, position)
		}
	}
	look()
	fresh := distinct(random, 3)
	fresh[2].Position = "new"
	require.NoError(t, s.Append(context.Background(), fresh))
	for _, d := range fresh {
		_, again := written[d.Event.EID]
		require.False(t, again, "EID %d is assigned twice", d.Event.EID)
		written[d.Event.EID] = d.Event
	}
	look()
	found := map[int64]bool{}
	for _, e := range read(t, s, kmodquery.Filter{}) {
		found[e.EID] = true
	}
	for _, d := range fresh {
		require.True(t, found[d.Event.EID], "an event stored after the damage is missing")
	}
	status, err := s.Status(context.Background())
	require.NoError(t, err)
	copies, _ := damagedCopies(dir)
	switch {
	case copies > 0:
		require.Contains(t, status.Trouble, "damaged")
		return "recreated"
	case status.Damaged > 0:
		require.Contains(t, status.Trouble, "do not match their checksums")
		return "rows left out"
	case served >= len(tm.events):
		return "whole"
	}
	require.Contains(t, status.Trouble, "events are lost", "%d served", served)
	return "log truncated"
}

// only returns an event with some of its columns.
func only(e kmodquery.Event, columns []string) kmodquery.Event {
	if columns == nil {
		return e
	}
	var some kmodquery.Event
	for _, name := range append([]string{"eid", "time"}, columns...) {
		column, ok := kmodquery.EventColumn(name)
		if !ok {
			continue
		}
		if !assign(column.Pointer(&some), column.Value(&e)) {
			panic(name)
		}
	}
	return some
}

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

// The lock state distinguishes a damaged header from the database of another program
// or version.
func TestAFlippedHeaderIsDamage(t *testing.T) {
	flipped := len(migrations) ^ 1<<30
	for name, test := range map[string]struct {
		sql   string
		known bool
		want  string
	}{
		"an id":                         {"PRAGMA application_id = 7", true, ""},
		"an id without a lock state":    {"PRAGMA application_id = 7", false, ""},
		"a version of another bit":      {fmt.Sprintf("PRAGMA user_version = %d", flipped), true, ""},
		"the same without a lock state": {fmt.Sprintf("PRAGMA user_version = %d", flipped), false, "use the newer program"},
		"a version of other bits":       {"PRAGMA user_version = 123456789", true, ""},
		"a newer version":               {"PRAGMA user_version = 99", true, "use the newer program"},
		"the next version":              {fmt.Sprintf("PRAGMA user_version = %d", len(migrations)+1), true, "use the newer program"},
		"an older version":              {"PRAGMA user_version = 1", true, ""},
		"a column's name":               {"ALTER TABLE positions RENAME COLUMN position TO positioo", true, ""},
		"a database of other tables":    {"PRAGMA application_id = 7; DROP TABLE events; DROP TABLE seen; DROP TABLE positions", true, "another program"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s, err := Open(context.Background(), dir, Options{})
			require.NoError(t, err)
			_, err = s.writer.Exec(test.sql)
			require.NoError(t, err)
			require.NoError(t, s.Close())
			if !test.known {
				require.NoError(t, os.Truncate(filepath.Join(dir, lockName), 0))
			}
			s, err = Open(context.Background(), dir, Options{})
			copies, _ := damagedCopies(dir)
			if test.want != "" {
				require.ErrorContains(t, err, test.want)
				require.Zero(t, copies)
				return
			}
			require.NoError(t, err)
			require.NoError(t, s.Close())
			require.Equal(t, 1, copies)
		})
	}
}

// A newer program writes its own version into the lock state, so this program does not
// take its database for a damaged one.
func TestADatabaseOfANewerProgramIsNotDamaged(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(context.Background(), dir, Options{})
	require.NoError(t, err)
	_, err = s.writer.Exec(fmt.Sprintf("PRAGMA user_version = %d", len(migrations)+1))
	require.NoError(t, err)
	s.state.Schema = len(migrations) + 1
	require.NoError(t, writeLockState(s.lock.Load(), s.state))
	require.NoError(t, s.Close())
	_, err = Open(context.Background(), dir, Options{})
	require.ErrorContains(t, err, "use the newer program")
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
		t.Skip("this file system has no files that are larger than what is free")
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
	s := openStore(t, Options{elapsed: func() time.Duration { return elapsed }})
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
	s := openIn(t, dir, Options{elapsed: func() time.Duration { return time.Duration(elapsed.Add(int64(2 * recreateInterval))) }})
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
	require.Len(t, read(t, other, kmodquery.Filter{}), 2, "an open database can be read")
	again := make([]kmodquery.Event, 1)
	require.NoError(t, appendEvents(context.Background(), s, again))
	require.Greater(t, again[0].EID, first[1].EID)
	require.Len(t, read(t, s, kmodquery.Filter{}), 1)
	require.Len(t, read(t, other, kmodquery.Filter{}), 1)
	require.Equal(t, []string{s.path + " was removed or replaced; the event store continues with another one"}, said)
}

func FuzzLockState(f *testing.F) {
	f.Add([]byte(`{"device":1,"inode":2,"schema":3,"trusted":4}`))
	f.Add([]byte(`{"schema":-1}`))
	f.Add([]byte("\x00\x00"))
	f.Fuzz(func(t *testing.T, text []byte) {
		m := parseLockState(text)
		require.GreaterOrEqual(t, m.Schema, 0)
		path := filepath.Join(t.TempDir(), lockName)
		file, err := os.Create(path)
		require.NoError(t, err)
		defer file.Close()
		require.NoError(t, writeLockState(file, m))
		require.Equal(t, m, readLockState(file))
	})
}

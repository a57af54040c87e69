//go:build linux

package sqlite

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
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
		seed := random.Int64N(1 << 40)
		e.Time, e.TimeNanos, e.Pid = 1_790_000_000+int64(i), seed, &seed
		e.Name, e.Path = fmt.Sprintf("module_%d", i%7), fmt.Sprintf("/lib/%x.ko", seed)
		e.SHA256, e.LoadID = fmt.Sprintf("%064x", seed), fmt.Sprintf("boot-%x", seed)
		e.Source = "kmsg"
		position := fmt.Sprint(i)
		if i%5 == 0 {
			e.Cmdline = strings.Repeat(fmt.Sprintf("%x ", seed), 1000) // more than a page
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

// A store whose files are damaged in any way opens, if necessary as a new one,
// and serves nothing that was not written.
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

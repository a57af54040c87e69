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

// A clock is the wall clock and the elapsed time of a store.
type cursorClock struct {
	wall    time.Time
	elapsed time.Duration
}

func newCursorClock() *cursorClock {
	return &cursorClock{wall: time.Unix(1_700_000_000, 0), elapsed: time.Hour}
}

func (c *cursorClock) pass(d time.Duration) {
	c.wall, c.elapsed = c.wall.Add(d), c.elapsed+d
}

func (c *cursorClock) options() Options {
	return Options{Now: func() time.Time { return c.wall }, Elapsed: func() time.Duration { return c.elapsed }}
}

// store appends n events.
func (c *cursorClock) store(t *testing.T, s *Store, n int) {
	t.Helper()
	events := make([]kmodquery.Event, n)
	for i := range events {
		events[i] = kmodquery.Event{Time: c.wall.Unix(), EventName: "module_load", Source: "ebpf", Name: fmt.Sprint("m", i)}
	}
	require.NoError(t, appendEvents(t.Context(), s, events))
}

var (
	loadConditions = []kmodquery.Condition{{Column: "event_name", Op: kmodquery.Equal, Values: []any{"module_load"}}}
	loads          = kmodquery.NewCursorQuery("kernel_module_events", loadConditions, loadConditions)
)

// ask does what a table does: it returns the first and the last EID that the cursor gives
// and moves it.
func ask(t *testing.T, s *Store, name string) (first, last int64) {
	t.Helper()
	return askAs(t, s, "", name)
}

// askAs does what a table of an osquery does.
func askAs(t *testing.T, s *Store, asker, name string) (first, last int64) {
	t.Helper()
	query := loads
	query.Asker = asker
	c, err := s.Cursor(t.Context(), name, query)
	require.NoError(t, err)
	fresh, to := 0, c.Last
	err = s.EventsBetween(t.Context(), c.After, c.Last, kmodquery.Filter{Conditions: loadConditions}, func(e *kmodquery.Event) error {
		if e.EID > c.Position {
			if fresh++; fresh > c.NewRows {
				fresh--
				to = e.EID - 1
				return errUnfinished
			}
		}
		if first == 0 {
			first = e.EID
		}
		last = e.EID
		return nil
	})
	if err != nil {
		require.ErrorIs(t, err, errUnfinished)
	}
	moved, err := s.Advance(t.Context(), c, to, fresh)
	require.NoError(t, err)
	require.True(t, moved)
	return first, last
}

func requireGiven(t *testing.T, s *Store, name string, first, last int64) {
	t.Helper()
	from, to := ask(t, s, name)
	require.Equal(t, []int64{first, last}, []int64{from, to})
}

func TestCursorGivesRowsAgainForTheHoldingTime(t *testing.T) {
	clock := newCursorClock()
	s := openStore(t, clock.options())
	requireGiven(t, s, "loads", 0, 0)
	clock.store(t, s, 3)
	requireGiven(t, s, "loads", 1, 3)
	clock.pass(5 * time.Minute)
	clock.store(t, s, 2)
	requireGiven(t, s, "loads", 1, 5)
	clock.pass(5 * time.Minute)
	requireGiven(t, s, "loads", 1, 5)
	clock.pass(5 * time.Minute)
	requireGiven(t, s, "loads", 4, 5)
	clock.pass(5 * time.Minute)
	requireGiven(t, s, "loads", 0, 0)
}

func TestCursorHoldsRowsWhileNobodyAsks(t *testing.T) {
	clock := newCursorClock()
	s := openStore(t, clock.options())
	requireGiven(t, s, "loads", 0, 0)
	clock.store(t, s, 1)
	requireGiven(t, s, "loads", 1, 1)
	clock.pass(3 * 24 * time.Hour)
	requireGiven(t, s, "loads", 1, 1)
}

func TestCursorGivesBoundedPages(t *testing.T) {
	clock := newCursorClock()
	s := openStore(t, clock.options())
	requireGiven(t, s, "loads", 0, 0)
	clock.store(t, s, 5*maxNewRows)
	for n := int64(1); n <= maxHeldRows/maxNewRows; n++ {
		requireGiven(t, s, "loads", 1, n*maxNewRows)
		clock.pass(time.Minute)
	}
	requireGiven(t, s, "loads", 1, maxHeldRows) // as many as may be held
	clock.pass(5 * time.Minute)
	requireGiven(t, s, "loads", 1, maxHeldRows)
	clock.pass(5 * time.Minute)
	requireGiven(t, s, "loads", 1, maxHeldRows)
	clock.pass(time.Minute)
	requireGiven(t, s, "loads", 1+maxNewRows, maxHeldRows+maxNewRows)
}

func TestANewCursorBeginsADayBack(t *testing.T) {
	clock := newCursorClock()
	s := openStore(t, clock.options())
	clock.store(t, s, 2)
	clock.pass(20 * time.Hour)
	clock.store(t, s, 2)
	clock.pass(20 * time.Hour)
	requireGiven(t, s, "loads", 3, 4)
	requireGiven(t, s, "other", 3, 4)
	clock.pass(200 * time.Hour)
	requireGiven(t, s, "third", 0, 0)
}

func TestCursorShipsLateWhatIsStoredLate(t *testing.T) {
	clock := newCursorClock()
	s := openStore(t, clock.options())
	requireGiven(t, s, "loads", 0, 0)
	clock.pass(72 * time.Hour)
	late := kmodquery.Event{Time: clock.wall.Unix() - 72*3600, EventName: "module_load", Source: "ebpf"}
	require.NoError(t, appendEvents(t.Context(), s, []kmodquery.Event{late}))
	requireGiven(t, s, "loads", 1, 1)
	require.Equal(t, clock.wall.Unix(), *read(t, s, kmodquery.Filter{})[0].StoredTime)
}

func TestCursorContinuesAfterARestart(t *testing.T) {
	clock := newCursorClock()
	dir := t.TempDir()
	s := openIn(t, dir, clock.options())
	clock.store(t, s, 2)
	requireGiven(t, s, "loads", 1, 2)
	clock.pass(10 * time.Minute)
	require.NoError(t, s.Close())
	s = openIn(t, dir, clock.options())
	clock.store(t, s, 2)
	requireGiven(t, s, "loads", 1, 4)
	clock.pass(5 * time.Minute)
	requireGiven(t, s, "loads", 1, 4)
	clock.pass(5 * time.Minute)
	requireGiven(t, s, "loads", 1, 4)
	clock.pass(5 * time.Minute)
	requireGiven(t, s, "loads", 0, 0) // all were held anew when the process started
}

func TestARestartGivesNothingAgainThatWasLeftOut(t *testing.T) {
	clock := newCursorClock()
	dir := t.TempDir()
	s := openIn(t, dir, clock.options())
	clock.store(t, s, 2)
	requireGiven(t, s, "loads", 1, 2)
	for range 2 {
		clock.pass(5 * time.Minute)
		requireGiven(t, s, "loads", 1, 2)
	}
	clock.pass(5 * time.Minute)
	requireGiven(t, s, "loads", 0, 0)
	require.NoError(t, s.Close())
	s = openIn(t, dir, clock.options())
	requireGiven(t, s, "loads", 0, 0) // osquery would log the rows a second time
	reader := openIn(t, dir, clock.options())
	c, err := reader.Cursor(t.Context(), "loads", loads)
	require.NoError(t, err)
	require.Equal(t, c.Position, c.After)
}

func TestWhatCannotBeStoredIsHeldForLonger(t *testing.T) {
	clock := newCursorClock()
	s := openStore(t, clock.options())
	clock.store(t, s, 2)
	requireGiven(t, s, "loads", 1, 2)
	exec := func(sql string) {
		_, err := s.writer.ExecContext(t.Context(), sql)
		require.NoError(t, err)
	}
	exec("PRAGMA query_only = 1")
	for range 5 {
		clock.pass(5 * time.Minute)
		requireGiven(t, s, "loads", 1, 2)
	}
	exec("PRAGMA query_only = 0")
	requireGiven(t, s, "loads", 0, 0)
}

func TestRequestsThatFailDoNotCount(t *testing.T) {
	clock := newCursorClock()
	s := openStore(t, clock.options())
	clock.store(t, s, 2)
	requireGiven(t, s, "loads", 1, 2)
	for range 10 {
		clock.pass(5 * time.Minute)
		_, err := s.Cursor(t.Context(), "loads", loads) // and no Advance
		require.NoError(t, err)
	}
	requireGiven(t, s, "loads", 1, 2)
}

// A call may hang in the disk while it holds the cursors.
func TestNobodyWaitsForACallThatHangs(t *testing.T) {
	clock := newCursorClock()
	s := openStore(t, clock.options())
	clock.store(t, s, 2)
	c, err := s.Cursor(t.Context(), "loads", loads)
	require.NoError(t, err)
	require.NoError(t, s.cursors.lock(t.Context()))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err = s.Cursor(ctx, "loads", loads)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	_, err = s.Advance(ctx, c, 2, 2)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	s.Registered("")
	s.cursors.unlock()
	requireGiven(t, s, "loads", 1, 2)
}

// An osqueryi that is started again and again must neither halve the cursors of osqueryd
// nor keep what they hold.
func TestAnotherOsqueryDoesNotCount(t *testing.T) {
	clock := newCursorClock()
	s := openStore(t, clock.options())
	clock.store(t, s, 2)
	for range 4 {
		requireGiven(t, s, "loads", 1, 2)
		s.Registered("/osqueryi")
		clock.pass(4 * time.Minute)
	}
	requireGiven(t, s, "loads", 0, 0)
	require.Zero(t, s.cursors.states["loads"].Halvings)
}

func requireGivenTo(t *testing.T, s *Store, asker string, first, last int64) {
	t.Helper()
	from, to := askAs(t, s, asker, "loads")
	require.Equal(t, []int64{first, last}, []int64{from, to})
}

// An osqueryi sees what osqueryd is owed, and takes nothing of it.
func TestALookOfAnotherOsqueryTakesNothing(t *testing.T) {
	clock := newCursorClock()
	dir := t.TempDir()
	s := openIn(t, dir, clock.options())
	clock.store(t, s, 2)
	requireGivenTo(t, s, "/osqueryd", 1, 2)
	clock.store(t, s, 2)
	for range 6 {
		clock.pass(5 * time.Minute)
		requireGivenTo(t, s, "/osqueryi", 1, 4)
	}
	s.Registered("/osqueryi")
	s.Registered("/osqueryd") // it was down
	requireGivenTo(t, s, "/osqueryd", 1, 4)
	clock.pass(5 * time.Minute)
	requireGivenTo(t, s, "/osqueryi", 1, 4)
	requireGivenTo(t, s, "/osqueryd", 1, 4)
	clock.pass(5 * time.Minute)
	requireGivenTo(t, s, "/osqueryd", 3, 4) // five of the minutes before its first request count
	clock.pass(5 * time.Minute)
	requireGivenTo(t, s, "/osqueryd", 0, 0)
	clock.store(t, s, 1)
	requireGivenTo(t, s, "/osqueryi", 5, 5)
	require.NoError(t, s.Close())
	s = openIn(t, dir, clock.options())
	requireGivenTo(t, s, "/osqueryi", 5, 5)
	requireGivenTo(t, s, "/osqueryd", 5, 5)
}

// The deaths of osqueryd count though an osqueryi asked last.
func TestALookDoesNotHideThatABatchKillsItsAsker(t *testing.T) {
	clock := newCursorClock()
	s := openStore(t, clock.options())
	askAs(t, s, "/osqueryd", "loads")
	for range maxDeaths {
		askAs(t, s, "/osqueryd", "loads")
		askAs(t, s, "/osqueryi", "loads")
		s.Registered("/osqueryd")
	}
	askAs(t, s, "/osqueryd", "loads")
	require.Equal(t, 1, s.cursors.states["loads"].Halvings)
}

// A socket may have got another path, or a cursor may have been tried by hand first.
func TestAnOsqueryTakesOverACursorThatNobodyElseAsksFor(t *testing.T) {
	clock := newCursorClock()
	s := openStore(t, clock.options())
	clock.store(t, s, maxNewRows+2)
	requireGivenTo(t, s, "/old", 1, maxNewRows)
	clock.pass(time.Hour)
	for range int(takeOverTime / askedWithin) {
		requireGivenTo(t, s, "/new", 1, maxNewRows+2)
		clock.pass(7 * time.Minute)
	}
	requireGivenTo(t, s, "/new", 1, maxNewRows+2)
	require.Equal(t, "/new", s.cursors.states["loads"].Query.Asker)
	require.EqualValues(t, maxNewRows+2, s.cursors.states["loads"].Position)
	requireGivenTo(t, s, "/old", 1, maxNewRows+2)
}

func TestRegistrationStartsTheHoldingTimeAgain(t *testing.T) {
	clock := newCursorClock()
	s := openStore(t, clock.options())
	clock.store(t, s, 2)
	requireGiven(t, s, "loads", 1, 2)
	for range 3 {
		clock.pass(4 * time.Minute)
		requireGiven(t, s, "loads", 1, 2)
	}
	s.Registered("")
	clock.pass(5 * time.Minute)
	requireGiven(t, s, "loads", 1, 2)
}

func TestABatchThatKillsItsAskerIsHalved(t *testing.T) {
	clock := newCursorClock()
	s := openStore(t, clock.options())
	requireGiven(t, s, "loads", 0, 0)
	clock.store(t, s, 3*maxNewRows)
	for n := range int64(3) {
		requireGiven(t, s, "loads", 1, (n+1)*maxNewRows)
	}
	for range maxDeaths {
		requireGiven(t, s, "loads", 1, 3*maxNewRows)
		s.Registered("")
	}
	requireGiven(t, s, "loads", 1, 2*maxNewRows) // half of the rows, of which all are held already
	for range maxDeaths {
		s.Registered("")
		ask(t, s, "loads")
	}
	s.Registered("")
	requireGiven(t, s, "loads", 1, maxNewRows)
	// An asker that survives gets more in time.
	for range 40 {
		clock.pass(5 * time.Minute)
		ask(t, s, "loads")
	}
	clock.store(t, s, 1)
	requireGiven(t, s, "loads", 3*maxNewRows+1, 3*maxNewRows+1)
}

func TestARegistrationAfterOtherRequestsHalvesNothing(t *testing.T) {
	clock := newCursorClock()
	s := openStore(t, clock.options())
	clock.store(t, s, 3*maxNewRows)
	for range 10 {
		ask(t, s, "loads")
		ask(t, s, "other")
		s.Registered("")
	}
	require.Equal(t, 0, s.cursors.states["loads"].Halvings)
}

func TestCursorNamesAreBounded(t *testing.T) {
	clock := newCursorClock()
	s := openStore(t, clock.options())
	for i := range maxCursors {
		ask(t, s, fmt.Sprint("cursor", i))
	}
	_, err := s.Cursor(t.Context(), "one.more", loads)
	require.ErrorContains(t, err, "create cursor one.more: there are 64 already")
	ask(t, s, "cursor0")
	for _, name := range []string{"", "a b", "ä", "a\n", strings.Repeat("x", maxCursorName+1)} {
		_, err := s.Cursor(t.Context(), name, loads)
		require.ErrorContains(t, err, "a name has 1 to 64 letters", "%q", name)
	}
}

func TestUnusedCursorsAreForgottenForNewOnes(t *testing.T) {
	clock := newCursorClock()
	dir := t.TempDir()
	s := openIn(t, dir, clock.options())
	for i := range maxCursors {
		ask(t, s, fmt.Sprint("cursor", i))
	}
	require.NoError(t, s.Close())
	clock.pass(31 * 24 * time.Hour)
	s = openIn(t, dir, clock.options())
	ask(t, s, "cursor0")
	ask(t, s, "new")
	require.Len(t, s.cursors.states, maxCursors)
	require.Contains(t, s.cursors.states, "cursor0")
}

func TestALongLivedRecorderForgetsUnusedCursors(t *testing.T) {
	clock := newCursorClock()
	s := openStore(t, clock.options())
	for i := range maxCursors {
		ask(t, s, fmt.Sprint("cursor", i))
	}
	clock.pass(31 * 24 * time.Hour)
	ask(t, s, "cursor0")
	ask(t, s, "new")
	require.Len(t, s.cursors.states, maxCursors)
	require.Contains(t, s.cursors.states, "cursor0")
}

func TestACursorBelongsToOneQuery(t *testing.T) {
	s := openStore(t, newCursorClock().options())
	ask(t, s, "loads")
	_, err := s.Cursor(t.Context(), "loads", kmodquery.NewCursorQuery("kernel_module_findings", loadConditions, loadConditions))
	require.ErrorContains(t, err, `cursor loads belongs to another query, kernel_module_events [{`)
	require.NotContains(t, err.Error(), "\n")
}

func TestACallThatGivesNothingWritesNothing(t *testing.T) {
	clock := newCursorClock()
	s := openStore(t, clock.options())
	requireGiven(t, s, "loads", 0, 0)
	before := totalChanges(t, s)
	events := []kmodquery.Event{{Time: clock.wall.Unix(), EventName: "module_free", Source: "ebpf"}}
	require.NoError(t, appendEvents(t.Context(), s, events))
	appended := totalChanges(t, s)
	require.Greater(t, appended, before)
	for range 10 {
		clock.pass(time.Minute)
		requireGiven(t, s, "loads", 0, 0)
	}
	require.Equal(t, appended, totalChanges(t, s))
}

func totalChanges(t *testing.T, s *Store) (n int64) {
	t.Helper()
	require.NoError(t, s.writer.QueryRowContext(t.Context(), "SELECT total_changes()").Scan(&n))
	return n
}

func TestAnotherCallMayMoveTheCursorFirst(t *testing.T) {
	clock := newCursorClock()
	s := openStore(t, clock.options())
	requireGiven(t, s, "loads", 0, 0)
	clock.store(t, s, 2)
	one, err := s.Cursor(t.Context(), "loads", loads)
	require.NoError(t, err)
	requireGiven(t, s, "loads", 1, 2)
	moved, err := s.Advance(t.Context(), one, 2, 2)
	require.NoError(t, err)
	require.False(t, moved)
}

func TestAReaderGivesTheSameBatchAgain(t *testing.T) {
	clock := newCursorClock()
	dir := t.TempDir()
	recorder := openIn(t, dir, clock.options())
	clock.store(t, recorder, 2)
	requireGiven(t, recorder, "loads", 1, 2)
	clock.store(t, recorder, 2)
	reader := openIn(t, dir, clock.options())
	for range 2 {
		c, err := reader.Cursor(t.Context(), "loads", loads)
		require.NoError(t, err)
		require.Equal(t, kmodquery.Cursor{Name: "loads", Position: 2, Last: 4}, c)
		_, err = reader.Advance(t.Context(), c, 4, 2)
		require.ErrorContains(t, err, "another process records")
	}
	c, err := reader.Cursor(t.Context(), "unknown", loads)
	require.NoError(t, err)
	require.Equal(t, kmodquery.Cursor{Name: "unknown", After: 4, Position: 4, Last: 4}, c)
}

func TestADamagedCursorBeginsAgain(t *testing.T) {
	clock := newCursorClock()
	dir := t.TempDir()
	s := openIn(t, dir, clock.options())
	clock.store(t, s, 2)
	requireGiven(t, s, "loads", 1, 2)
	_, err := s.writer.ExecContext(t.Context(), "UPDATE cursors SET state = replace(state, '\"Position\":2', '\"Position\":9')")
	require.NoError(t, err)
	require.NoError(t, s.Close())
	s = openIn(t, dir, clock.options())
	requireGiven(t, s, "loads", 1, 2)
	status, err := s.Status(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 1, status.Damaged)
}

func TestEventsThatExpireUnreadAreCounted(t *testing.T) {
	clock := newCursorClock()
	o := clock.options()
	o.MaxEvents = 10
	dir := t.TempDir()
	s := openIn(t, dir, o)
	clock.store(t, s, 4)
	requireGiven(t, s, "loads", 1, 4)
	require.NoError(t, s.Close())
	s = openIn(t, dir, o) // no call has loaded the cursors
	clock.store(t, s, 20)
	require.NoError(t, appendEvents(t.Context(), s, []kmodquery.Event{{Time: clock.wall.Unix(), EventName: "module_free", Source: "ebpf"}}))
	require.NoError(t, s.Expire(t.Context()))
	require.EqualValues(t, 11, skippedIn(t, s)) // 15 of 25 expired, of which 4 were given
	requireGiven(t, s, "loads", 16, 24)
	require.EqualValues(t, 11, skippedIn(t, s))
	require.NoError(t, s.Close())
	s = openIn(t, dir, o)
	ask(t, s, "loads")
	require.EqualValues(t, 11, skippedIn(t, s))
}

// skippedIn returns the number of events that expired before a cursor gave them.
func skippedIn(t *testing.T, s *Store) int64 {
	t.Helper()
	status, err := s.Status(t.Context())
	require.NoError(t, err)
	return status.Skipped
}

// An osquery that is down for long, as when its host's disk was full, asks for no cursor.
func TestEventsThatExpireWhileNobodyAsksStayCounted(t *testing.T) {
	clock := newCursorClock()
	o := clock.options()
	o.MaxEvents = 10
	dir := t.TempDir()
	s := openIn(t, dir, o)
	requireGiven(t, s, "loads", 0, 0)
	reader := openIn(t, dir, o)
	for n := int64(1); n <= 3; n++ {
		clock.store(t, s, 10)
		require.NoError(t, s.Expire(t.Context()))
		require.EqualValues(t, 10*(n-1), skippedIn(t, s))
		require.EqualValues(t, 10*(n-1), skippedIn(t, reader), "a reader does not see what expired")
		require.NoError(t, s.Close())
		s = openIn(t, dir, o)
		require.EqualValues(t, 10*(n-1), skippedIn(t, s), "a restart forgets what expired")
	}
	requireGiven(t, s, "loads", 21, 30)
	require.EqualValues(t, 20, skippedIn(t, reader))
}

// A disk may fail to read a part of the cursors once.
func TestCursorsThatWereReadInPartAreReadAgain(t *testing.T) {
	clock := newCursorClock()
	o := clock.options()
	o.MaxEvents = 10
	dir := t.TempDir()
	s := openIn(t, dir, o)
	ask(t, s, "loads")
	ask(t, s, "other")
	require.NoError(t, s.Close())
	s = openIn(t, dir, o)
	exec := func(sql string) {
		t.Helper()
		_, err := s.writer.ExecContext(t.Context(), sql)
		require.NoError(t, err)
	}
	exec("ALTER TABLE cursors RENAME TO kept")
	exec("CREATE VIEW cursors AS SELECT * FROM kept WHERE name = 'loads' UNION ALL SELECT 'failing', '', abs(-9223372036854775808)")
	clock.store(t, s, 20)
	require.ErrorContains(t, s.Expire(t.Context()), "integer overflow")
	status, err := s.Status(t.Context())
	require.ErrorContains(t, err, "integer overflow")
	require.Zero(t, status.Skipped)
	exec("DROP VIEW cursors")
	exec("ALTER TABLE kept RENAME TO cursors")
	require.NoError(t, s.Expire(t.Context()))
	require.EqualValues(t, 20, skippedIn(t, s)) // ten for each cursor
}

func TestEventsExpireTogetherWithTheirCount(t *testing.T) {
	clock := newCursorClock()
	o := clock.options()
	o.MaxEvents = 10
	dir := t.TempDir()
	s := openIn(t, dir, o)
	ask(t, s, "loads")
	clock.store(t, s, 20)
	exec := func(sql string) {
		t.Helper()
		_, err := s.writer.ExecContext(t.Context(), sql)
		require.NoError(t, err)
	}
	exec("CREATE TRIGGER failing BEFORE UPDATE ON cursors BEGIN SELECT raise(ABORT, 'not now'); END")
	require.ErrorContains(t, s.Expire(t.Context()), "not now")
	require.Len(t, read(t, s, kmodquery.Filter{}), 20)
	require.Zero(t, skippedIn(t, s))
	exec("DROP TRIGGER failing")
	require.NoError(t, s.Expire(t.Context()))
	require.EqualValues(t, 10, skippedIn(t, s))
	require.NoError(t, s.Close())
	require.EqualValues(t, 10, skippedIn(t, openIn(t, dir, o)))
}

// Events expire while a cursor waits to be stored.
func TestACursorIsStoredWithWhatExpiredMeanwhile(t *testing.T) {
	clock := newCursorClock()
	o := clock.options()
	o.MaxEvents = 10
	dir := t.TempDir()
	s := openIn(t, dir, o)
	ask(t, s, "loads")
	clock.store(t, s, 20)
	busy, err := s.writer.Conn(t.Context())
	require.NoError(t, err)
	stored := make(chan error)
	state := *s.cursors.states["loads"]
	go func() { stored <- s.storeCursor(t.Context(), "loads", &state) }()
	require.Eventually(t, func() bool { return s.writer.Stats().WaitCount > 0 }, time.Minute, time.Millisecond)
	s.cursors.skipped.add(map[string]int64{"loads": 10}, 1)
	require.NoError(t, busy.Close())
	require.NoError(t, <-stored)
	require.NoError(t, s.Close())
	require.EqualValues(t, 10, skippedIn(t, openIn(t, dir, o)))
}

// Another version may count other events.
func TestEventsThatExpireAreCountedByTheConditionsOfTheLastQuery(t *testing.T) {
	clock := newCursorClock()
	o := clock.options()
	o.MaxEvents = 1
	s := openStore(t, o)
	first := kmodquery.NewCursorQuery("kernel_module_findings", nil, loadConditions)
	next := kmodquery.NewCursorQuery("kernel_module_findings", nil, []kmodquery.Condition{{Column: "name", Op: kmodquery.Equal, Values: []any{"m1"}}})
	for _, query := range []kmodquery.CursorQuery{first, next} {
		c, err := s.Cursor(t.Context(), "findings", query)
		require.NoError(t, err)
		moved, err := s.Advance(t.Context(), c, c.Last, 0)
		require.NoError(t, err)
		require.True(t, moved)
	}
	clock.store(t, s, 10) // one of each name
	require.NoError(t, s.Expire(t.Context()))
	require.EqualValues(t, 1, skippedIn(t, s))
}

func TestEventsThatCouldNotBeDeletedAreNotCounted(t *testing.T) {
	clock := newCursorClock()
	o := clock.options()
	o.MaxEvents = 10
	s := openStore(t, o)
	ask(t, s, "loads")
	clock.store(t, s, 20)
	_, err := s.writer.ExecContext(t.Context(), "PRAGMA query_only = 1")
	require.NoError(t, err)
	require.Error(t, s.Expire(t.Context()))
	require.Zero(t, skippedIn(t, s))
	_, err = s.writer.ExecContext(t.Context(), "PRAGMA query_only = 0")
	require.NoError(t, err)
	require.NoError(t, s.Expire(t.Context()))
	require.EqualValues(t, 10, skippedIn(t, s))
}

func TestACursorThatNobodyAsksForMissesNothing(t *testing.T) {
	clock := newCursorClock()
	o := clock.options()
	o.MaxEvents = 10
	s := openStore(t, o)
	ask(t, s, "tried.once")
	clock.pass(31 * 24 * time.Hour)
	clock.store(t, s, 20)
	require.NoError(t, s.Expire(t.Context()))
	require.Zero(t, skippedIn(t, s))
}

func TestAStoreWithoutCursorsIsRecreated(t *testing.T) {
	dir := t.TempDir()
	s := openIn(t, dir, newCursorClock().options())
	_, err := s.writer.ExecContext(t.Context(), "DROP TABLE cursors")
	require.NoError(t, err)
	require.NoError(t, s.Close())
	s = openIn(t, dir, newCursorClock().options())
	ask(t, s, "loads")
	require.True(t, s.recreated)
}

// The query of the events that are too old has numbered parameters.
func TestEventsThatGrowTooOldUnreadAreCounted(t *testing.T) {
	clock := newCursorClock()
	o := clock.options()
	o.MaxAge = time.Hour
	s := openStore(t, o)
	clock.store(t, s, 3)
	requireGiven(t, s, "loads", 1, 3)
	clock.store(t, s, 4)
	clock.pass(2 * time.Hour)
	clock.store(t, s, 1)
	require.NoError(t, s.Expire(t.Context()))
	require.Equal(t, []int64{8}, eids(read(t, s, kmodquery.Filter{})))
	status, err := s.Status(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 4, status.Skipped)
}

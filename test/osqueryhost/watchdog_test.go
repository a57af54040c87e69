package osqueryhost_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/osquery/osquery-go"
	"github.com/osquery/osquery-go/plugin/table"
	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery/test/osqueryhost"
)

// Flags of a host with a watchdog: with osquery's limit, and with one of a megabyte.
var (
	watched = map[string]string{"disable_watchdog": "false"}
	small   = map[string]string{"disable_watchdog": "false", "watchdog_memory_limit": "1"}
)

// limitCells is the number of cells that the watchdog lets a worker hold.
const limitCells = 200 << 20 / 600

const wideColumns = 10

// A wide is a table of ten columns with as many rows as a test sets.
type wide struct {
	*table.Plugin
	rows atomic.Int64
}

func newWide() *wide {
	w := &wide{}
	var columns []table.ColumnDefinition
	for i := range wideColumns {
		columns = append(columns, table.TextColumn("c"+strconv.Itoa(i)))
	}
	w.Plugin = table.NewPlugin("wide", columns, func(context.Context, table.QueryContext) ([]map[string]string, error) {
		rows := make([]map[string]string, w.rows.Load())
		for i := range rows {
			rows[i] = map[string]string{"c0": strconv.Itoa(i), "c1": "x"}
		}
		return rows, nil
	})
	return w
}

// survive runs an extension that registers again when its worker has gone, until the test
// ends.
func survive(t *testing.T, host *osqueryhost.Host, plugins ...osquery.OsqueryPlugin) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			client, err := osquery.NewClient(host.Socket(), time.Second)
			if err != nil {
				continue
			}
			server, err := osquery.NewExtensionManagerServer("survivor", host.Socket(), osquery.WithClient(client))
			if err != nil {
				client.Close()
				continue
			}
			server.RegisterPlugin(plugins...)
			go server.Start()
			for ctx.Err() == nil {
				time.Sleep(20 * time.Millisecond)
				if _, err := client.Ping(); err != nil {
					break
				}
			}
			_ = server.Shutdown(context.Background())
			client.Close()
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	for _, plugin := range plugins {
		require.NoError(t, host.WaitForTable(t.Context(), plugin.Name()))
	}
}

const widePack = `{"queries": {
	"a": {"query": "SELECT c0 AS name, * FROM wide", "interval": 60, "removed": false},
	"b": {"query": "SELECT 'b' AS name", "interval": 60}
}}`

func TestWorkerAboveTheLimitIsKilled(t *testing.T) {
	dir := t.TempDir()
	host := start(t, osqueryhost.Options{Dir: dir, Flags: watched})
	wide := newWide()
	survive(t, host, wide)
	require.NoError(t, host.Tick(t.Context(), noon.Add(-time.Second)))
	host.Schedule(t.Context(), parse(t, widePack))

	wide.rows.Store(limitCells / (wideColumns + 1))
	require.NoError(t, host.Advance(t.Context(), time.Second), "below the limit")
	report := host.Watchdog()
	require.Empty(t, report.Kills)
	require.Greater(t, report.Peak, int64(199<<20))

	wide.rows.Store(limitCells/(wideColumns+1) + 1)
	former := onlyUUID(t, host)
	err := host.Advance(t.Context(), time.Minute)
	require.ErrorContains(t, err, "execute scheduled query pack_p_a: osqueryd worker stopping: Memory limits exceeded: ")
	require.ErrorContains(t, err, "(limit is 200MB)")
	report = host.Watchdog()
	require.Len(t, report.Kills, 1)
	require.Equal(t, noon.Add(time.Minute), report.Kills[0].At)
	require.Equal(t, []string{"pack_p_a"}, report.Kills[0].Queries)
	require.Equal(t, report.Peak, report.Kills[0].Bytes)
	require.Len(t, actions(t, host, "pack_p_b"), 1)

	// The extension registers with the next worker, where the query may not run.
	require.NoError(t, host.WaitForTable(t.Context(), "wide"))
	require.NotEqual(t, former, onlyUUID(t, host))
	require.Equal(t, []map[string]string{{"name": "pack_p_a", "denylisted": "1"}, {"name": "pack_p_b", "denylisted": "0"}},
		query(t, host, "SELECT name, denylisted FROM osquery_schedule"))
	wide.rows.Store(0)
	require.NoError(t, host.Tick(t.Context(), noon.Add(24*time.Hour)))
	require.NoError(t, host.Close())

	// The next host keeps the denylist until a day has passed.
	host = start(t, osqueryhost.Options{Dir: dir, Flags: watched})
	serve(t, host, "extension", wide)
	require.NoError(t, host.Tick(t.Context(), noon.Add(time.Hour)))
	host.Schedule(t.Context(), parse(t, widePack))
	executions := func() string {
		return query(t, host, "SELECT executions FROM osquery_schedule WHERE name = 'pack_p_a'")[0]["executions"]
	}
	require.NoError(t, host.Tick(t.Context(), noon.Add(24*time.Hour+time.Minute)))
	require.Equal(t, "0", executions())
	require.NoError(t, host.Tick(t.Context(), noon.Add(24*time.Hour+2*time.Minute)))
	require.Equal(t, "1", executions())
}

func TestWithoutAWatchdogNothingIsKilled(t *testing.T) {
	host := start(t, osqueryhost.Options{})
	wide := newWide()
	serve(t, host, "extension", wide)
	wide.rows.Store(limitCells/wideColumns + 1)
	require.Len(t, query(t, host, "SELECT * FROM wide"), limitCells/wideColumns+1)
	report := host.Watchdog()
	require.Empty(t, report.Kills)
	require.Greater(t, report.Peak, int64(200<<20))
	require.Len(t, query(t, host, "SELECT 1"), 1)
	require.Equal(t, report, host.Watchdog(), "a query that has ended holds nothing")
}

func TestAccountedCells(t *testing.T) {
	for name, test := range map[string]struct {
		sql  string
		want int64
	}{
		"result":                 {"SELECT c0, c1 FROM wide", 2 * 100},
		"columns that are empty": {"SELECT c0, c1, c2 FROM wide", 3 * 100},
		"reply larger":           {"SELECT count(*) FROM wide", 2 * 100},
		"result larger":          {"SELECT c0, c0 AS a, c0 AS b, c0 AS c FROM wide", 4 * 100},
		"several statements":     {"SELECT c0 FROM wide; SELECT c0 FROM wide; SELECT c0 FROM wide", 3 * 100},
		"none":                   {"SELECT 1", 1},
	} {
		t.Run(name, func(t *testing.T) {
			host := start(t, osqueryhost.Options{Dir: shortDir(t)})
			wide := newWide()
			wide.rows.Store(100)
			serve(t, host, "extension", wide)
			query(t, host, test.sql)
			require.Equal(t, test.want*600, host.Watchdog().Peak)
		})
	}
}

func TestExemptQueryIsNotDenied(t *testing.T) {
	host := start(t, osqueryhost.Options{Flags: small})
	wide := newWide()
	wide.rows.Store(1000)
	survive(t, host, wide)
	require.NoError(t, host.Tick(t.Context(), noon.Add(-time.Second)))
	host.Schedule(t.Context(), parse(t, `{"queries": {"a": {"query": "SELECT * FROM wide", "interval": 60, "denylist": false}}}`))
	require.Error(t, host.Advance(t.Context(), time.Second))
	for n := range 2 {
		require.NoError(t, host.WaitForTable(t.Context(), "wide"))
		require.ErrorContains(t, host.Advance(t.Context(), time.Minute), "Memory limits exceeded")
		require.Len(t, host.Watchdog().Kills, n+2)
	}
}

// All queries of a worker fail with it. The live query that was too large is refused for a
// day, and so is the scheduled one that only ran beside it.
func TestLiveQueryKillsTheScheduledOne(t *testing.T) {
	host := start(t, osqueryhost.Options{Flags: small})
	started := make(chan struct{}, 1)
	slow := table.NewPlugin("slow", []table.ColumnDefinition{table.TextColumn("name")},
		func(ctx context.Context, _ table.QueryContext) ([]map[string]string, error) {
			started <- struct{}{}
			<-ctx.Done()
			return nil, ctx.Err()
		})
	wide := newWide()
	wide.rows.Store(1000)
	survive(t, host, slow, wide)
	require.NoError(t, host.Tick(t.Context(), noon.Add(-time.Second)))
	host.Schedule(t.Context(), parse(t, `{"queries": {"q": {"query": "SELECT name FROM slow", "interval": 60}}}`))
	ticked := make(chan error)
	go func() { ticked <- host.Tick(t.Context(), noon) }()
	<-started
	const large = "SELECT * FROM wide"
	_, err := host.Live(t.Context(), large)
	require.ErrorContains(t, err, "Memory limits exceeded")
	require.ErrorContains(t, <-ticked, "execute scheduled query pack_p_q: osqueryd worker stopping")
	require.Equal(t, []string{"pack_p_q", large}, host.Watchdog().Kills[0].Queries)

	require.NoError(t, host.WaitForTable(t.Context(), "wide"))
	_, err = host.Live(t.Context(), large)
	require.EqualError(t, err, "distributed query is denylisted")
	require.NoError(t, host.Tick(t.Context(), noon.Add(time.Minute)), "the scheduled query is on the denylist")
	_, err = host.Live(t.Context(), "SELECT count(*) FROM users")
	require.NoError(t, err)
	wide.rows.Store(1)
	require.NoError(t, host.Tick(t.Context(), noon.Add(25*time.Hour+time.Second)))
	rows, err := host.Live(t.Context(), large)
	require.NoError(t, err)
	require.Len(t, rows, 1)
}

// A worker that is killed within four seconds is replaced after a delay, and osqueryd ends
// after the fourth such restart.
func TestQuickRestartsAreDelayed(t *testing.T) {
	host := start(t, osqueryhost.Options{Flags: small})
	require.NoError(t, host.Tick(t.Context(), noon))
	const large = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 10000) SELECT i FROM n"
	kill := func() {
		t.Helper()
		_, err := host.Query(t.Context(), large)
		require.ErrorContains(t, err, "(limit is 1MB)")
	}
	kill()
	kill() // the next worker began at once, and is killed in its first seconds
	now := noon
	for _, delay := range []int{7, 9, 13} {
		now = now.Add(time.Duration(delay)*time.Second - time.Second)
		require.NoError(t, host.Tick(t.Context(), now), "nothing runs")
		_, err := host.Query(t.Context(), "SELECT 1")
		require.EqualError(t, err, "osqueryd's worker is not running")
		now = now.Add(time.Second)
		require.NoError(t, host.Tick(t.Context(), now))
		require.Len(t, query(t, host, "SELECT 1"), 1)
		kill()
	}
	now = now.Add(21 * time.Second)
	require.NoError(t, host.Tick(t.Context(), now))
	require.NoError(t, host.Tick(t.Context(), now.Add(time.Hour)))
	kill()
	_, err := host.Query(t.Context(), "SELECT 1")
	require.ErrorContains(t, err, "Too many worker restarts")
	require.ErrorContains(t, host.Tick(t.Context(), now.Add(2*time.Hour)), "Too many worker restarts")
	require.Len(t, host.Watchdog().Kills, 6)
}

// A new worker runs its discovery queries before an extension can register, unless it
// requires the extension.
func TestDiscoveryOfTheNextWorker(t *testing.T) {
	for required, runs := range map[string]bool{"": false, "survivor": true} {
		t.Run("requires "+required, func(t *testing.T) {
			host := start(t, osqueryhost.Options{Dir: shortDir(t), Timeout: time.Minute, Flags: map[string]string{
				"disable_watchdog": "false", "watchdog_memory_limit": "1", "extensions_require": required,
			}})
			toy := newToy("toy")
			survive(t, host, toy)
			require.NoError(t, host.Tick(t.Context(), noon.Add(-time.Second)))
			host.Schedule(t.Context(), parse(t, `{
				"discovery": ["SELECT 1 FROM osquery_registry WHERE name = 'toy'"],
				"queries": {"q": {"query": "SELECT name FROM toy", "interval": 60}}
			}`))
			_, err := host.Live(t.Context(), "SELECT '"+strings.Repeat("x", 10)+"' FROM (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 10000) SELECT i FROM n)")
			require.Error(t, err)
			require.NoError(t, host.WaitForTable(t.Context(), "toy"))
			toy.set(row(1, "a"))
			require.NoError(t, host.Advance(t.Context(), 59*time.Minute))
			require.Equal(t, runs, len(actions(t, host, "pack_p_q")) == 1)
			require.NoError(t, host.Advance(t.Context(), 2*time.Minute))
			require.Equal(t, []string{"added a"}, actions(t, host, "pack_p_q"))
		})
	}
}

// The database of a host that was killed names the query that ran, and the next host denies
// it if it has a watchdog.
func TestQueryOfAKilledHostIsDenied(t *testing.T) {
	for watchdog, want := range map[string]string{"true": "0", "false": "1"} {
		t.Run(fmt.Sprintf("disable_watchdog=%s", watchdog), func(t *testing.T) {
			dir := shortDir(t)
			options := osqueryhost.Options{Dir: dir, Flags: map[string]string{"disable_watchdog": watchdog}}
			host := start(t, options)
			started := make(chan struct{})
			slow := table.NewPlugin("slow", []table.ColumnDefinition{table.TextColumn("name")},
				func(ctx context.Context, _ table.QueryContext) ([]map[string]string, error) {
					close(started)
					<-ctx.Done()
					return nil, ctx.Err()
				})
			serve(t, host, "extension", slow)
			pack := parse(t, `{"queries": {"q": {"query": "SELECT name FROM slow", "interval": 60}}}`)
			require.NoError(t, host.Tick(t.Context(), noon.Add(-time.Second)))
			host.Schedule(t.Context(), pack)
			ticked := make(chan error)
			go func() { ticked <- host.Tick(t.Context(), noon) }()
			<-started
			require.NoError(t, host.Vanish())
			require.ErrorContains(t, <-ticked, "osqueryd has been killed")

			host = start(t, options)
			require.NoError(t, host.Tick(t.Context(), noon.Add(time.Second)))
			host.Schedule(t.Context(), pack)
			require.Equal(t, []map[string]string{{"denylisted": want}}, query(t, host, "SELECT denylisted FROM osquery_schedule"))
		})
	}
}

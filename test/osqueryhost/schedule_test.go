package osqueryhost_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery/test/osqueryhost"
)

// noon is a time that every interval used here divides.
var noon = time.Date(2026, 9, 1, 12, 0, 0, 0, time.UTC)

func parse(t *testing.T, content string) osqueryhost.Pack {
	t.Helper()
	pack, err := osqueryhost.ParsePack("p", []byte(content))
	require.NoError(t, err)
	return pack
}

// actions returns the log lines of one query, as action and name.
func actions(t *testing.T, host *osqueryhost.Host, query string) (lines []string) {
	t.Helper()
	results, err := host.ResultsLog()
	require.NoError(t, err)
	for _, result := range results {
		if result.Name == query {
			lines = append(lines, result.Action+" "+result.Columns["name"])
		}
	}
	return lines
}

func TestResultsLog(t *testing.T) {
	dir := t.TempDir()
	host := start(t, osqueryhost.Options{Dir: dir})
	toy := newToy("toy")
	toy.set(row(1, "<a>\n"), row(1, "<a>\n"), row(2, "b"))
	serve(t, host, "extension", toy)
	host.Schedule(t.Context(), parse(t, `{"queries": {
		"diff": {"query": "SELECT name, time FROM toy", "interval": 60},
		"grow": {"query": "SELECT count(*) AS n FROM toy", "interval": 60, "removed": false},
		"snap": {"query": "SELECT name FROM toy WHERE time = 2", "interval": 120, "snapshot": true}
	}}`))
	require.NoError(t, host.Tick(t.Context(), noon))
	toy.set(row(1, "<a>\n"), row(3, "c"))
	require.NoError(t, host.Advance(t.Context(), 3*time.Minute))

	const want = `
{"name":"pack_p_diff","hostIdentifier":"host","calendarTime":"Tue Sep  1 12:00:00 2026 UTC","unixTime":1788264000,"epoch":0,"counter":0,"numerics":false,"columns":{"name":"<a>\\x0A","time":"1"},"action":"added"}
{"name":"pack_p_diff","hostIdentifier":"host","calendarTime":"Tue Sep  1 12:00:00 2026 UTC","unixTime":1788264000,"epoch":0,"counter":0,"numerics":false,"columns":{"name":"<a>\\x0A","time":"1"},"action":"added"}
{"name":"pack_p_diff","hostIdentifier":"host","calendarTime":"Tue Sep  1 12:00:00 2026 UTC","unixTime":1788264000,"epoch":0,"counter":0,"numerics":false,"columns":{"name":"b","time":"2"},"action":"added"}
{"name":"pack_p_grow","hostIdentifier":"host","calendarTime":"Tue Sep  1 12:00:00 2026 UTC","unixTime":1788264000,"epoch":0,"counter":0,"numerics":false,"columns":{"n":"3"},"action":"added"}
{"name":"pack_p_diff","hostIdentifier":"host","calendarTime":"Tue Sep  1 12:01:00 2026 UTC","unixTime":1788264060,"epoch":0,"counter":1,"numerics":false,"columns":{"name":"<a>\\x0A","time":"1"},"action":"removed"}
{"name":"pack_p_diff","hostIdentifier":"host","calendarTime":"Tue Sep  1 12:01:00 2026 UTC","unixTime":1788264060,"epoch":0,"counter":1,"numerics":false,"columns":{"name":"b","time":"2"},"action":"removed"}
{"name":"pack_p_diff","hostIdentifier":"host","calendarTime":"Tue Sep  1 12:01:00 2026 UTC","unixTime":1788264060,"epoch":0,"counter":1,"numerics":false,"columns":{"name":"c","time":"3"},"action":"added"}
{"name":"pack_p_grow","hostIdentifier":"host","calendarTime":"Tue Sep  1 12:01:00 2026 UTC","unixTime":1788264060,"epoch":0,"counter":1,"numerics":false,"columns":{"n":"2"},"action":"added"}
`
	log, err := os.ReadFile(filepath.Join(dir, "osqueryd.results.log"))
	require.NoError(t, err)
	require.Equal(t, want, "\n"+string(log))

	log, err = os.ReadFile(filepath.Join(dir, "osqueryd.snapshots.log"))
	require.NoError(t, err)
	require.Equal(t, `
{"snapshot":[{"name":"b"}],"action":"snapshot","name":"pack_p_snap","hostIdentifier":"host","calendarTime":"Tue Sep  1 12:00:00 2026 UTC","unixTime":1788264000,"epoch":0,"counter":0,"numerics":false}
{"snapshot":[],"action":"snapshot","name":"pack_p_snap","hostIdentifier":"host","calendarTime":"Tue Sep  1 12:02:00 2026 UTC","unixTime":1788264120,"epoch":0,"counter":0,"numerics":false}
`, "\n"+string(log))
	snapshots, err := host.SnapshotsLog()
	require.NoError(t, err)
	require.Len(t, snapshots, 2)
}

func TestStateOutlivesTheHost(t *testing.T) {
	dir := t.TempDir()
	toy := newToy("toy")
	pack := parse(t, `{"queries": {"q": {"query": "SELECT name FROM toy", "interval": 60, "removed": false}}}`)
	run := func(epoch uint64, at time.Time, rows ...map[string]string) {
		toy.set(rows...)
		host := start(t, osqueryhost.Options{Dir: dir, Epoch: epoch})
		serve(t, host, "extension", toy)
		host.Schedule(t.Context(), pack)
		require.NoError(t, host.Tick(t.Context(), at))
		require.NoError(t, host.Close())
	}
	run(0, noon, row(1, "a"))
	run(0, noon.Add(time.Minute), row(1, "a"), row(2, "b"))
	run(0, noon.Add(2*time.Minute), row(2, "b"))
	run(7, noon.Add(3*time.Minute), row(2, "b"))

	host := start(t, osqueryhost.Options{Dir: dir})
	require.Equal(t, []string{"added a", "added b", "added b"}, actions(t, host, "pack_p_q"))
	results, err := host.ResultsLog()
	require.NoError(t, err)
	require.EqualValues(t, 1, results[1].Counter)
	require.EqualValues(t, 7, results[2].Epoch)
	require.EqualValues(t, 0, results[2].Counter, "a new epoch ships everything again")
}

func TestFailedQueryKeepsItsState(t *testing.T) {
	host := start(t, osqueryhost.Options{})
	toy := newToy("toy")
	toy.set(row(1, "a"))
	serve(t, host, "extension", toy)
	host.Schedule(t.Context(), parse(t, `{"queries": {
		"bad": {"query": "SELECT", "interval": 60},
		"q": {"query": "SELECT name FROM toy", "interval": 60}
	}}`))
	require.ErrorContains(t, host.Tick(t.Context(), noon), "execute scheduled query pack_p_bad")
	toy.fail(errors.New("locked"))
	require.ErrorContains(t, host.Tick(t.Context(), noon.Add(time.Minute)), "execute scheduled query pack_p_q: ")
	toy.fail(nil)
	require.Error(t, host.Tick(t.Context(), noon.Add(2*time.Minute)))
	require.Equal(t, []string{"added a"}, actions(t, host, "pack_p_q"))
}

func TestDiscovery(t *testing.T) {
	host := start(t, osqueryhost.Options{})
	toy := newToy("toy")
	toy.set(row(1, "a"))
	require.NoError(t, host.Tick(t.Context(), noon))
	host.Schedule(t.Context(), parse(t, `{
		"discovery": ["SELECT 1", "SELECT 1 FROM osquery_registry WHERE registry = 'table' AND name = 'toy'"],
		"queries": {"q": {"query": "SELECT name FROM toy", "interval": 60}}
	}`))
	require.NoError(t, host.Advance(t.Context(), time.Minute), "a pack whose discovery query returns no rows runs no query")

	serve(t, host, "extension", toy)
	require.NoError(t, host.Advance(t.Context(), 58*time.Minute))
	require.Empty(t, actions(t, host, "pack_p_q"), "the answer is kept for an hour")
	require.NoError(t, host.Advance(t.Context(), time.Minute))
	require.Equal(t, []string{"added a"}, actions(t, host, "pack_p_q"))
}

func TestFailedDiscoveryRunsNoQuery(t *testing.T) {
	host := start(t, osqueryhost.Options{})
	host.Schedule(t.Context(), parse(t, `{
		"discovery": ["SELECT 1 FROM missing"],
		"queries": {"q": {"query": "SELECT 1 AS name", "interval": 60}}
	}`))
	require.NoError(t, host.Tick(t.Context(), noon))
	require.Empty(t, actions(t, host, "pack_p_q"))
}

// A window that slides over rows ships each row once, although the rows leave it.
func TestWindowShipsOnce(t *testing.T) {
	host := start(t, osqueryhost.Options{})
	toy := newToy("toy")
	toy.set(row(int(noon.Unix()), "a"), row(int(noon.Unix())+3000, "b"))
	serve(t, host, "extension", toy)
	require.NoError(t, host.Tick(t.Context(), noon))
	host.Schedule(t.Context(), parse(t, `{"queries": {"q": {
		"query": "SELECT name FROM toy WHERE time > (SELECT unix_time FROM time) - 600 AND time <= (SELECT unix_time FROM time)",
		"interval": 60, "removed": false
	}}}`))
	require.NoError(t, host.Advance(t.Context(), 100*time.Minute))
	require.Equal(t, []string{"added a", "added b"}, actions(t, host, "pack_p_q"))
}

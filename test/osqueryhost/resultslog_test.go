package osqueryhost_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery/test/osqueryhost"
)

func TestLoggerFlags(t *testing.T) {
	const item = `"name":"pack_p_q","hostIdentifier":"host","calendarTime":"Tue Sep  1 12:00:00 2026 UTC","unixTime":1788264000,"epoch":0,"counter":0,"numerics":`
	for name, test := range map[string]struct {
		flags map[string]string
		want  string
	}{
		"strings as events":  {nil, `{` + item + `false,"columns":{"d":"1.0","n":"7","t":"7"},"action":"added"}`},
		"numbers as events":  {map[string]string{"logger_numerics": "true"}, `{` + item + `true,"columns":{"d":1.0,"n":7,"t":"7"},"action":"added"}`},
		"alias":              {map[string]string{"log_numerics_as_numbers": "true"}, `{` + item + `true,"columns":{"d":1.0,"n":7,"t":"7"},"action":"added"}`},
		"strings in a whole": {map[string]string{"logger_event_type": "false"}, `{"diffResults":{"removed":[],"added":[{"d":"1.0","n":"7","t":"7"}]},` + item + `false}`},
		"numbers in a whole": {map[string]string{"logger_event_type": "false", "logger_numerics": "true"}, `{"diffResults":{"removed":[],"added":[{"d":1.0,"n":7,"t":"7"}]},` + item + `true}`},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			host := start(t, osqueryhost.Options{Dir: dir, Socket: filepath.Join(shortDir(t), "s"), Flags: test.flags})
			require.NoError(t, host.Tick(t.Context(), noon.Add(-time.Second)))
			host.Schedule(t.Context(), parse(t, `{"queries": {"q": {"query": "SELECT 7 AS n, '7' AS t, 1.0 AS d", "interval": 60}}}`))
			require.NoError(t, host.Advance(t.Context(), 2*time.Minute))
			log, err := os.ReadFile(filepath.Join(dir, "osqueryd.results.log"))
			require.NoError(t, err)
			require.Equal(t, test.want+"\n", string(log))
		})
	}
}

func TestNumbersAreReadAsText(t *testing.T) {
	host := start(t, osqueryhost.Options{Flags: map[string]string{"logger_numerics": "true"}})
	require.NoError(t, host.Tick(t.Context(), noon.Add(-time.Second)))
	host.Schedule(t.Context(), parse(t, `{"queries": {"q": {"query": "SELECT 9223372036854775807 AS n, 'x' AS t", "interval": 60}}}`))
	require.NoError(t, host.Advance(t.Context(), time.Second))
	results, err := host.ResultsLog()
	require.NoError(t, err)
	require.Equal(t, osqueryhost.Columns{"n": "9223372036854775807", "t": "x"}, results[0].Columns)
}

// The first result of an epoch is a line even if it is empty. A later run without changes
// is none.
func TestWholeResults(t *testing.T) {
	host := start(t, osqueryhost.Options{Flags: map[string]string{"logger_event_type": "false"}})
	toy := newToy("toy")
	serve(t, host, "extension", toy)
	require.NoError(t, host.Tick(t.Context(), noon.Add(-time.Second)))
	host.Schedule(t.Context(), parse(t, `{"queries": {"q": {"query": "SELECT name FROM toy", "interval": 60}}}`))
	require.NoError(t, host.Advance(t.Context(), 2*time.Minute))
	toy.set(row(1, "a"))
	require.NoError(t, host.Advance(t.Context(), time.Minute))
	toy.set(row(1, "b"))
	require.NoError(t, host.Advance(t.Context(), time.Minute))
	lines, err := host.WholeResultsLog()
	require.NoError(t, err)
	require.Len(t, lines, 3)
	require.Empty(t, lines[0].DiffResults.Added)
	require.EqualValues(t, 0, lines[0].Counter)
	require.Equal(t, []osqueryhost.Columns{{"name": "a"}}, lines[1].DiffResults.Added)
	require.Equal(t, []osqueryhost.Columns{{"name": "a"}}, lines[2].DiffResults.Removed)
	require.Equal(t, []osqueryhost.Columns{{"name": "b"}}, lines[2].DiffResults.Added)
	require.EqualValues(t, 2, lines[2].Counter)
}

// The filesystem logger writes lines of any length. The TLS logger drops long ones, after
// the differential has noted their rows as shipped.
func TestLongLines(t *testing.T) {
	long := strings.Repeat("x", 2<<20)
	for name, test := range map[string]struct {
		flags map[string]string
		want  []string
	}{
		"filesystem": {nil, []string{"added " + long, "added short"}},
		"tls":        {map[string]string{"logger_plugin": "tls"}, []string{"added short"}},
	} {
		t.Run(name, func(t *testing.T) {
			var output bytes.Buffer
			host := start(t, osqueryhost.Options{Flags: test.flags, Output: &output})
			toy := newToy("toy")
			toy.set(row(1, long), row(2, "short"))
			serve(t, host, "extension", toy)
			require.NoError(t, host.Tick(t.Context(), noon.Add(-time.Second)))
			host.Schedule(t.Context(), parse(t, `{"queries": {"q": {"query": "SELECT name FROM toy", "interval": 60}}}`))
			require.NoError(t, host.Advance(t.Context(), 3*time.Minute))
			require.Equal(t, test.want, actions(t, host, "pack_p_q"))
			require.Equal(t, name == "tls", strings.Contains(output.String(), "Linesize exceeds TLS logger maximum: 2097"))
		})
	}
}

// The database has the result of a query that returns an infinite number as JSON that ends
// early. The query's next run ends osqueryd.
func TestInfiniteDoubleEndsOsqueryd(t *testing.T) {
	host := start(t, osqueryhost.Options{})
	require.NoError(t, host.Tick(t.Context(), noon.Add(-time.Second)))
	host.Schedule(t.Context(), parse(t, `{"queries": {"q": {"query": "SELECT 'x' AS name, 1e999 AS d", "interval": 60}}}`))
	require.NoError(t, host.Advance(t.Context(), time.Second))
	require.Equal(t, []string{"added x"}, actions(t, host, "pack_p_q"))
	require.ErrorContains(t, host.Advance(t.Context(), time.Minute), "Error adding new results to database for query pack_p_q")
	_, err := host.Query(t.Context(), "SELECT 1")
	require.ErrorContains(t, err, "osqueryd has ended")
}

package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/extension/shell"
)

// input returns a file with the standard input of a command.
func input(t *testing.T, text string) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "stdin")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	file, err := os.Open(path)
	require.NoError(t, err)
	t.Cleanup(func() { file.Close() })
	return file
}

func TestRun(t *testing.T) {
	tests := []struct {
		name   string
		args   []string
		stdin  string
		status int
		stdout string
		stderr string // one of its lines
	}{
		{"version", []string{"--version"}, "", 0, "kmodquery.ext " + kmodquery.Version + "\n", ""},
		{"one statement", []string{"query", "--format", "csv", "SELECT 1 AS a"}, "", 0, "a\n1\n", ""},
		{"statements from stdin", []string{"query", "--format", "line"}, "SELECT 1 AS a;\nSELECT 2 AS b", 0, "a = 1\nb = 2\n", ""},
		{"a mistake in the SQL", []string{"query", "SELEC"}, "", exitFailed, "",
			`kmodquery: near "SELEC": syntax error`},
		{"a mistake on stdin", []string{"query", "--format", "csv"}, "SELEC;\nSELECT 1 AS a", exitFailed, "a\n1\n",
			`error: line 1: near "SELEC": syntax error`},
		{"a mistake in JSON", []string{"query", "SELECT 1 AS a; SELECT pth FROM kernel_module_events", "--json"}, "", exitFailed,
			"[\n[\n  {\"a\":\"1\"}\n],\n{\"error\":\"no such column: pth; did you mean path?\"}\n]\n", "kmodquery: no such column: pth; did you mean path?"},
		{"a command of the shell", []string{"query", ".schema kernel_module_evnts"}, "", exitFailed, "",
			"kmodquery: no such table: kernel_module_evnts; did you mean kernel_module_events?"},
		{"a mistake in the command", []string{"demo"}, "", exitUsage, "", `kmodquery: unknown command "demo" (see --help)`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("KMODQUERY_STATE_DIR", t.TempDir())
			var stdout strings.Builder
			stderr := &reportLines{} // the sources report while statements run
			status := run(t.Context(), hostPlatform(), test.args, input(t, test.stdin), &stdout, stderr)
			lines := stderr.lines()
			require.Equal(t, test.status, status, lines)
			require.Equal(t, test.stdout, stdout.String())
			// Sources that do not work on this host report lines as well.
			last := lines[len(lines)-1]
			if test.stderr != "" {
				require.Contains(t, lines, test.stderr)
			} else if last != "" {
				require.Contains(t, sensorNames(&config{platform: hostPlatform()}), strings.Split(last, ": ")[1], last)
			}
		})
	}
}

func TestHelpGoesToStdout(t *testing.T) {
	var stdout, stderr strings.Builder
	require.Zero(t, run(t.Context(), hostPlatform(), []string{"--help"}, input(t, ""), &stdout, &stderr))
	require.Contains(t, stdout.String(), "kmodquery.ext --socket PATH")
	require.Empty(t, stderr.String())
}

func TestOverview(t *testing.T) {
	t.Setenv("KMODQUERY_STATE_DIR", t.TempDir())
	var stdout, stderr strings.Builder
	require.Zero(t, run(t.Context(), hostPlatform(), []string{"query"}, input(t, ""), &stdout, &stderr))
	for _, part := range overview {
		require.Contains(t, stdout.String(), part.title+"\n")
	}
	for _, name := range sensorNames(&config{platform: hostPlatform()}) {
		require.Contains(t, stdout.String(), "| "+name+" ")
	}
}

// A terminal has 120 columns.
func TestOverviewFitsATerminal(t *testing.T) {
	db, err := sql.Open("sqlite", ":memory:")
	require.NoError(t, err)
	defer db.Close()
	db.SetMaxOpenConns(1)
	long := strings.Repeat("x", 200)
	_, err = db.ExecContext(t.Context(), `CREATE TABLE kernel_module_loads AS SELECT '2026-12-01 00:00:00' AS utc, 'init_failed' AS outcome, ?1 AS name, ?1 AS path, 'memfd' AS origin,
		'untrusted' AS signature_status, ?1 AS process_name, ?1 AS findings, 1 AS eid;
		CREATE TABLE kernel_module_sensors AS SELECT 'endpoint_security' AS source, 'unavailable' AS state, 'recorder' AS role, 1000000 AS received, 1000 AS lost, ?1 AS reason`, long)
	require.NoError(t, err)
	var stdout strings.Builder
	require.NoError(t, showOverview(t.Context(), db, &stdout, shell.Table))
	for line := range strings.Lines(stdout.String()) {
		require.LessOrEqual(t, len(strings.TrimSuffix(line, "\n")), 120, line)
	}
	require.Contains(t, stdout.String(), "init_failed")
	_, err = db.ExecContext(t.Context(), "UPDATE kernel_module_sensors SET state = 'failed'")
	require.NoError(t, err)
	stdout.Reset()
	require.NoError(t, showOverview(t.Context(), db, &stdout, shell.Table))
	require.Contains(t, stdout.String(), long, "the reason says what to do")
}

func TestOverviewInJSONIsOneDocument(t *testing.T) {
	t.Setenv("KMODQUERY_STATE_DIR", t.TempDir())
	var stdout, stderr strings.Builder
	require.Zero(t, run(t.Context(), hostPlatform(), []string{"query", "--format", "json"}, input(t, ""), &stdout, &stderr))
	var tables map[string][]map[string]string
	require.NoError(t, json.Unmarshal([]byte(stdout.String()), &tables), stdout.String())
	require.Len(t, tables, len(overview))
	require.Equal(t, kmodquery.RoleRecorder, tables["kernel_module_sensors"][0]["role"])
}

// Programs that read a log would take an error of several lines for several errors.
func TestEveryFailureIsOneLine(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	for _, args := range [][]string{
		{"--no\nsuch"},
		{"no\nsuch"},
		{"query", "--config", "no\nsuch"},
		{"query", "--state-dir", file + "/two\nlines", "SELECT 1"},
		{"--socket", "two\nlines", "--timeout", "1"},
	} {
		var stdout, stderr strings.Builder
		require.NotZero(t, run(context.Background(), hostPlatform(), args, input(t, ""), &stdout, &stderr))
		require.Regexp(t, `^kmodquery: [^\n]+\n$`, stderr.String())
		require.Empty(t, stdout.String())
	}
}

func TestExitIsBoundedAfterASignal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, signal := context.WithCancel(t.Context())
		var exited atomic.Bool
		ended := boundExit(ctx, func() { exited.Store(true) })
		time.Sleep(time.Hour)
		signal()
		time.Sleep(exitTimeout - time.Second)
		require.False(t, exited.Load())
		time.Sleep(time.Second)
		synctest.Wait()
		require.True(t, exited.Load())
		ended()

		exited.Store(false)
		boundExit(ctx, func() { exited.Store(true) })()
		time.Sleep(time.Hour)
		require.False(t, exited.Load(), "the command has ended in time")
	})
}

func TestQuerySaysWhereItKeepsItsStore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	t.Setenv("TMPDIR", t.TempDir())
	for args, want := range map[string]string{
		"":       "kmodquery: creating an event store in " + dir + "; with --temp it is a temporary one",
		"--temp": "kmodquery: the event store is in " + os.Getenv("TMPDIR"),
	} {
		words := append([]string{"query", "--state-dir", dir, "SELECT DISTINCT store_path FROM kernel_module_sensors"}, strings.Fields(args)...)
		status, stdout, stderr := ran(t, words...)
		require.Zero(t, status, stderr)
		require.Contains(t, stderr, want)
		if args == "" {
			require.Contains(t, stdout, dir)
			require.NoError(t, os.RemoveAll(dir))
			continue
		}
		require.Contains(t, stdout, os.Getenv("TMPDIR"))
		require.NoDirExists(t, dir)
		left, err := os.ReadDir(os.Getenv("TMPDIR"))
		require.NoError(t, err)
		require.Empty(t, left)
	}
}

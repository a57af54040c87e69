//go:build linux

package e2e

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/tables/sqlite"
	"github.com/kmodquery/kmodquery/test/hostile"
	"github.com/kmodquery/kmodquery/test/osqueryhost"
	"github.com/kmodquery/kmodquery/test/vm"
)

// A byteHost is a host whose store has one load for each hostile text, with that text
// in every column that a host can choose. An osquery runs the built extension on it.
type byteHost struct {
	texts     []string // the event with EID n has texts[n-1]
	stateDir  string
	extension string
	osquery   *osquery
}

func newByteHost(t *testing.T) *byteHost {
	t.Helper()
	dir, err := os.MkdirTemp("", "bytes") // short enough for a socket
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	h := &byteHost{
		texts:     append(hostile.Texts(), "a\x00b", "\x00"),
		stateDir:  filepath.Join(dir, "state"),
		extension: buildExtension(t, vm.Arch(runtime.GOARCH)),
	}
	store, err := sqlite.Open(t.Context(), h.stateDir, sqlite.Options{})
	require.NoError(t, err)
	require.NoError(t, store.Append(t.Context(), h.deliveries(t)))
	require.NoError(t, store.Close())
	h.osquery = newOsquery(dir, h.extension)
	require.NoError(t, h.osquery.start())
	t.Cleanup(func() { require.NoError(t, h.osquery.close()) })
	// Loads of the real host are irrelevant.
	require.NoError(t, h.osquery.launch([]string{"--sources", "kmsg"}))
	return h
}

func (h *byteHost) deliveries(t *testing.T) []kmodquery.Delivery {
	t.Helper()
	now := time.Now()
	var deliveries []kmodquery.Delivery
	for i, text := range h.texts {
		in, err := json.Marshal(map[string]string{"comm": kmodquery.Escape(text)})
		require.NoError(t, err)
		deliveries = append(deliveries, kmodquery.Delivery{Event: kmodquery.Event{
			Time: now.Unix(), TimeNanos: now.UnixNano() + int64(i), Source: kmodquery.SourceEBPF,
			EventName: kmodquery.EventInitModule, Type: kmodquery.TypeKernelModule, Origin: kmodquery.OriginMemory,
			Name: text, Path: text, Signer: text, License: text, Params: &text, ProcessName: text, ProcessPath: text,
			Cmdline: text, Cwd: text, Cgroup: text, ContainerID: text, Raw: text, Reason: text,
			Ancestors: "[" + string(in) + "]", RequestedBy: string(in),
		}})
	}
	return deliveries
}

var byteColumns = []string{"name", "path", "signer", "license", "params", "process_name", "process_path", "cmdline", "cwd", "cgroup", "container_id", "raw", "reason"}

// requireRow compares a row of kernel_module_events with the values that the host
// wrote.
func (h *byteHost) requireRow(t *testing.T, row map[string]string) {
	t.Helper()
	eid, err := strconv.Atoi(row["eid"])
	require.NoError(t, err)
	text := h.texts[eid-1]
	for column, value := range row {
		require.Empty(t, hostile.Harm(value), column)
	}
	for _, column := range byteColumns {
		require.Equal(t, text, hostile.Unescape(row[column]), column)
	}
	for column, chain := range map[string]string{"ancestors": row["ancestors"], "requested_by": "[" + row["requested_by"] + "]"} {
		var processes []struct{ Comm string }
		require.NoError(t, json.Unmarshal([]byte(chain), &processes), column)
		require.Equal(t, text, hostile.Unescape(processes[0].Comm), column)
	}
}

func (h *byteHost) selectAll() string {
	return fmt.Sprintf("SELECT *, raw FROM kernel_module_events WHERE eid <= %d", len(h.texts))
}

// TestHostileBytes passes every byte that a host can write through the store, the
// tables, Thrift and osquery to its logs.
func TestHostileBytes(t *testing.T) {
	t.Parallel()
	h := newByteHost(t)
	host := h.osquery.host
	runSQL := func(sql string) []map[string]string {
		rows, err := host.Query(t.Context(), sql)
		require.NoError(t, err, "%q", sql)
		return rows
	}
	rows := runSQL(h.selectAll())
	require.Len(t, rows, len(h.texts))
	cells := map[string]string{} // by eid
	for _, row := range rows {
		h.requireRow(t, row)
		cells[row["eid"]] = row["cmdline"]
	}

	findings := runSQL(fmt.Sprintf("SELECT eid, reason, event FROM kernel_module_findings WHERE eid <= %d AND signature_id = 'TRC-1017'", len(h.texts)))
	require.Len(t, findings, len(h.texts))
	for _, row := range findings {
		require.Empty(t, hostile.Harm(row["reason"]))
		require.Empty(t, hostile.Harm(row["event"]))
		var event struct{ Cmdline, Ancestors string }
		require.NoError(t, json.Unmarshal([]byte(row["event"]), &event))
		eid, err := strconv.Atoi(row["eid"])
		require.NoError(t, err)
		require.Equal(t, h.texts[eid-1], hostile.Unescape(event.Cmdline))
		var ancestors []struct{ Comm string }
		require.NoError(t, json.Unmarshal([]byte(event.Ancestors), &ancestors))
		require.Equal(t, h.texts[eid-1], hostile.Unescape(ancestors[0].Comm))
	}

	t.Run("SQL finds them by the shown text", func(t *testing.T) {
		like := strings.NewReplacer("^", "^^", "%", "^%", "_", "^_")
		for eid, shown := range cells {
			for _, where := range []string{
				"cmdline = " + sqlText(shown), "path = " + sqlText(shown), "cmdline IN (" + sqlText(shown) + ", 'x')",
				"cmdline LIKE " + sqlText(like.Replace(shown)) + " ESCAPE '^'", "instr(event_name || cmdline, " + sqlText(shown) + ") > 0",
			} {
				found := runSQL("SELECT eid FROM kernel_module_events WHERE " + where)
				require.Contains(t, column(found, "eid"), eid, where)
			}
			found := runSQL("SELECT eid FROM kernel_module_events WHERE cmdline != " + sqlText(shown) + " AND eid = " + eid)
			require.Empty(t, found)
		}
	})
	t.Run("SQL in any bytes", func(t *testing.T) {
		for _, text := range hostile.Texts() {
			for _, row := range runSQL("SELECT cmdline FROM kernel_module_events WHERE cmdline = " + sqlText(text) + " OR name LIKE " + sqlText(text)) {
				require.Empty(t, hostile.Harm(row["cmdline"]))
			}
			_, err := host.Query(t.Context(), "SELECT "+sqlName(text)+" FROM kernel_module_events")
			if err != nil {
				continue // SQLite's message has the user's own text
			}
		}
	})
	t.Run("logs", func(t *testing.T) { h.requireLogs(t) })
}

// requireLogs reads the logs as a log pipeline does.
func (h *byteHost) requireLogs(t *testing.T) {
	pack, err := osqueryhost.ParsePack("bytes", []byte(fmt.Sprintf(`{"queries": {
		"events": {"query": %q, "interval": 10},
		"snapshot": {"query": %[1]q, "interval": 10, "snapshot": true},
		"findings": {"query": "SELECT reason, event FROM kernel_module_findings WHERE eid <= %d AND signature_id = 'TRC-1017'", "interval": 10}
	}}`, h.selectAll(), len(h.texts))))
	require.NoError(t, err)
	h.osquery.host.Schedule(t.Context(), pack)
	require.NoError(t, h.osquery.host.Advance(t.Context(), 30*time.Second))

	results, err := h.osquery.host.ResultsLog()
	require.NoError(t, err)
	events := 0
	for _, result := range results {
		if strings.HasSuffix(result.Name, "_events") {
			h.requireRow(t, result.Columns)
			events++
		}
	}
	require.Equal(t, len(h.texts), events)
	require.Equal(t, 2*len(h.texts), len(results), "each is shipped once, although it was queried repeatedly")
	snapshots, err := h.osquery.host.SnapshotsLog()
	require.NoError(t, err)
	require.Len(t, snapshots[0].Snapshot, len(h.texts))
	for _, row := range snapshots[0].Snapshot {
		h.requireRow(t, row)
	}
	for _, name := range []string{"osqueryd.results.log", "osqueryd.snapshots.log", "extension.log"} {
		content, err := os.ReadFile(filepath.Join(h.osquery.options.Dir, name))
		require.NoError(t, err)
		require.True(t, utf8.Valid(content), name)
		for line := range bytes.Lines(content) {
			require.Empty(t, hostile.Harm(string(bytes.TrimSuffix(line, []byte("\n")))), name)
		}
	}
}

// TestHostileTerminal does the same without osquery, beside the recorder and therefore
// as its reader, in every format.
func TestHostileTerminal(t *testing.T) {
	t.Parallel()
	h := newByteHost(t)
	shown := h.run(t, "json", h.selectAll())
	var rows []map[string]string
	require.NoError(t, json.Unmarshal([]byte(shown), &rows))
	require.Len(t, rows, len(h.texts))
	for _, row := range rows {
		h.requireRow(t, row)
	}
	records, err := csv.NewReader(strings.NewReader(h.run(t, "csv", h.selectAll()))).ReadAll()
	require.NoError(t, err)
	require.Len(t, records, len(h.texts)+1)
	for _, record := range records[1:] {
		row := map[string]string{}
		for i, name := range records[0] {
			row[name] = record[i]
		}
		h.requireRow(t, row)
	}
	for _, format := range []string{"table", "line"} {
		shown := h.run(t, format, h.selectAll())
		for _, row := range rows {
			require.Contains(t, shown, row["cmdline"], format)
		}
		for _, table := range []string{"kernel_module_findings", "kernel_module_loads", "kernel_module_inventory", "kernel_module_sensors"} {
			h.run(t, format, "SELECT * FROM "+table)
		}
	}
	for _, text := range hostile.Texts() {
		h.run(t, "table", "SELECT "+sqlText(text)+" AS "+sqlName(text))
		h.run(t, "line", "SELECT no_such_column, "+sqlText(text)+" "+sqlName(text))
		h.run(t, text, "SELECT 1")
	}
}

// run runs a query in the extension and returns its output. It requires the output and
// stderr to be harmless.
func (h *byteHost) run(t *testing.T, format, sql string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waitForTables)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, h.extension, "query", "--state-dir", h.stateDir, "--format", format, sql)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	require.Equal(t, err != nil, stderr.Len() > 0, "%v: %s", err, &stderr)
	for _, output := range []string{stdout.String(), stderr.String()} {
		for line := range strings.Lines(output) {
			require.Empty(t, hostile.Harm(strings.TrimSuffix(line, "\n")))
		}
	}
	return stdout.String()
}

func sqlText(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }

func sqlName(text string) string { return `"` + strings.ReplaceAll(text, `"`, `""`) + `"` }

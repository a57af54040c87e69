//go:build linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery/test/osqueryhost"
)

// An instance is an osquery in the guest with the extension attached to it.
type instance struct {
	host      *osqueryhost.Host
	extension *osqueryhost.Child
}

// guestOsquery is shared by all tests of one VM and ends with the VM.
var guestOsquery = sync.OnceValues(func() (*instance, error) {
	dir, err := os.MkdirTemp("/run", "osquery")
	if err != nil {
		return nil, err
	}
	osquery, err := startOsquery(dir)
	if err != nil {
		return nil, err
	}
	return osquery, osquery.awaitStarted()
})

// awaitEBPF waits until the eBPF source is active. On a busy host it may take so long
// to start that other sources stand in for it.
func (g *instance) awaitEBPF() error { return g.awaitActive("ebpf") }

// awaitStarted waits until the eBPF source is active and the views have been read once.
// A module that is loaded before that may count as present at the start: it then has a
// module_present besides the events of its load.
func (g *instance) awaitStarted() error {
	return errors.Join(g.awaitActive("ebpf"), g.awaitActive("procfs"))
}

// awaitActive waits until a source is active.
func (g *instance) awaitActive(source string) error {
	ctx, cancel := context.WithTimeout(context.Background(), waitForTables)
	defer cancel()
	for {
		rows, err := g.host.Query(ctx, "SELECT state, reason FROM kernel_module_sensors WHERE source = '"+source+"'")
		if err == nil && len(rows) == 1 && rows[0]["state"] == "active" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for source %s to be active: %w; sensors: %v", source, errors.Join(ctx.Err(), err), rows)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// startOsquery starts an osquery and the extension with further flags, each
// with their state in the folder.
func startOsquery(dir string, flags ...string) (*instance, error) {
	host, err := osqueryhost.Start(context.Background(), osqueryhost.Options{Dir: dir})
	if err != nil {
		return nil, err
	}
	// Under emulation on a busy host this may take long.
	flags = append([]string{"--state-dir", dir + "/state", "--query-timeout", "5m"}, flags...)
	extension, err := host.StartExtension(guestExtension, flags...)
	if err != nil {
		return nil, errors.Join(err, host.Close())
	}
	ctx, cancel := context.WithTimeout(context.Background(), waitForTables)
	defer cancel()
	if err := awaitStart(ctx, host); err != nil {
		return nil, errors.Join(err, host.Close())
	}
	return &instance{host, extension}, nil
}

// awaitStart waits until the extension has started its sources. It registers its tables
// earlier, and a query waits for the sources.
func awaitStart(ctx context.Context, host *osqueryhost.Host) error {
	if err := host.WaitForTable(ctx, "kernel_module_events"); err != nil {
		return err
	}
	// A source that starts slowly is replaced meanwhile, and the query no longer waits for it.
	const starting = "SELECT source FROM kernel_module_sensors WHERE reason LIKE 'it is starting%' OR reason LIKE 'it has been starting%'"
	for {
		if _, err := host.Query(ctx, "SELECT count(*) FROM kernel_module_events"); err != nil {
			return err
		}
		rows, err := host.Query(ctx, starting)
		if err != nil || len(rows) == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %v to start: %w", rows, ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// query queries an osquery. Rows lack the columns that are NULL.
func (g *instance) query(t *testing.T, sql string, args ...any) []map[string]string {
	t.Helper()
	sql = fmt.Sprintf(sql, args...)
	rows, err := g.host.Query(t.Context(), sql)
	if err != nil && (strings.Contains(err.Error(), "no such table") || strings.Contains(err.Error(), "vtable constructor failed")) {
		// If a busy emulator prevented the extension from answering a ping in time,
		// osquery has dropped its tables, and it registers again.
		t.Logf("waiting for the tables to return: %v", err)
		ctx, cancel := context.WithTimeout(t.Context(), waitForTables)
		defer cancel()
		require.NoError(t, g.host.WaitForTable(ctx, "kernel_module_sensors"))
		rows, err = g.host.Query(t.Context(), sql)
	}
	require.NoError(t, err)
	for _, row := range rows {
		for column, value := range row {
			if value == "" {
				delete(row, column)
			}
		}
	}
	return rows
}

// latest returns the EID of the newest event.
func (g *instance) latest(t *testing.T) int64 {
	t.Helper()
	rows := g.query(t, "SELECT coalesce(max(eid), 0) AS eid FROM kernel_module_events")
	require.Len(t, rows, 1)
	return integer(t, rows[0]["eid"])
}

// since returns the whole rows after an EID, in order, without those of the logs: the
// recorder backfills from a log after its start.
func (g *instance) since(t *testing.T, eid int64) []map[string]string {
	t.Helper()
	return g.query(t, "SELECT * FROM kernel_module_events WHERE eid > %d AND source NOT IN ('journal', 'kmsg', 'syslog') ORDER BY eid", eid)
}

// shared returns the guest's osquery.
func shared(t *testing.T) *instance {
	t.Helper()
	osquery, err := guestOsquery()
	require.NoError(t, err)
	return osquery
}

// query queries the guest's osquery.
func query(t *testing.T, sql string, args ...any) []map[string]string {
	t.Helper()
	return shared(t).query(t, sql, args...)
}

// latest returns the EID of the guest's newest event.
func latest(t *testing.T) int64 {
	t.Helper()
	return shared(t).latest(t)
}

// eventsSince returns the guest's whole rows after an EID, in order.
func eventsSince(t *testing.T, eid int64) []map[string]string {
	t.Helper()
	return shared(t).since(t, eid)
}

func integer(t *testing.T, text string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(text, 10, 64)
	require.NoError(t, err)
	return n
}

// requireMissing requires the row's missing to name at least these columns.
func requireMissing(t *testing.T, row map[string]string, columns ...string) {
	t.Helper()
	require.Subset(t, strings.Split(row["missing"], ","), columns)
}

func column(rows []map[string]string, name string) []string {
	values := make([]string, len(rows))
	for i, row := range rows {
		values[i] = row[name]
	}
	return values
}

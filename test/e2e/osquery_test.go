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

// A guestOf is an osquery in the guest and the extension attached to it.
type guestOf struct {
	host      *osqueryhost.Host
	extension *osqueryhost.Child
}

// guestOsquery is shared by all tests of one VM and ends with it.
var guestOsquery = sync.OnceValues(func() (*guestOf, error) {
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

// awaitEBPF waits until eBPF watches: in an emulator beside others it may take so
// long to begin that other sources stand in for it.
func (g *guestOf) awaitEBPF() error { return g.awaitActive("ebpf") }

// awaitStarted waits until eBPF watches and the views have taken their first look. A
// module that is loaded before that may be there at the start as well: it has a
// module_present besides the events of its load.
func (g *guestOf) awaitStarted() error {
	return errors.Join(g.awaitActive("ebpf"), g.awaitActive("procfs"))
}

// awaitActive waits until a source watches.
func (g *guestOf) awaitActive(source string) error {
	ctx, cancel := context.WithTimeout(context.Background(), waitForTables)
	defer cancel()
	for {
		rows, err := g.host.Query(ctx, "SELECT state, reason FROM kernel_module_sensors WHERE source = '"+source+"'")
		if err == nil && len(rows) == 1 && rows[0]["state"] == "active" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s to watch: %w; it says %v", source, errors.Join(ctx.Err(), err), rows)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// startOsquery starts an osquery and the extension with further flags, each
// with their state in the folder.
func startOsquery(dir string, flags ...string) (*guestOf, error) {
	host, err := osqueryhost.Start(context.Background(), osqueryhost.Options{Dir: dir})
	if err != nil {
		return nil, err
	}
	// An emulator beside others may take its time.
	flags = append([]string{"--state-dir", dir + "/state", "--query-timeout", "5m"}, flags...)
	extension, err := host.StartExtension(guestExtension, flags...)
	if err != nil {
		return nil, errors.Join(err, host.Close())
	}
	ctx, cancel := context.WithTimeout(context.Background(), waitForTables)
	defer cancel()
	if err := host.WaitForTable(ctx, "kernel_module_sensors"); err != nil {
		return nil, errors.Join(err, host.Close())
	}
	return &guestOf{host, extension}, nil
}

// query asks an osquery. A row is without the columns that are NULL.
func (g *guestOf) query(t *testing.T, sql string, args ...any) []map[string]string {
	t.Helper()
	sql = fmt.Sprintf(sql, args...)
	rows, err := g.host.Query(t.Context(), sql)
	if err != nil && strings.Contains(err.Error(), "no such table") {
		// An extension that a busy emulator kept from answering one ping in
		// time has lost its tables, and registers again.
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

// latest is the eid of the newest event.
func (g *guestOf) latest(t *testing.T) int64 {
	t.Helper()
	rows := g.query(t, "SELECT coalesce(max(eid), 0) AS eid FROM kernel_module_events")
	require.Len(t, rows, 1)
	return integer(t, rows[0]["eid"])
}

// since returns the whole rows after an eid, in their order, without those of
// the logs: the recorder looks back in one when it has begun.
func (g *guestOf) since(t *testing.T, eid int64) []map[string]string {
	t.Helper()
	return g.query(t, "SELECT * FROM kernel_module_events WHERE eid > %d AND source NOT IN ('journal', 'kmsg', 'syslog') ORDER BY eid", eid)
}

// shared is the guest's osquery.
func shared(t *testing.T) *guestOf {
	t.Helper()
	osquery, err := guestOsquery()
	require.NoError(t, err)
	return osquery
}

// query asks the guest's osquery.
func query(t *testing.T, sql string, args ...any) []map[string]string {
	t.Helper()
	return shared(t).query(t, sql, args...)
}

// latest is the eid of the guest's newest event.
func latest(t *testing.T) int64 {
	t.Helper()
	return shared(t).latest(t)
}

// eventsSince returns the guest's whole rows after an eid, in their order.
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

// requireMissing wants the row's missing to name at least these columns.
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

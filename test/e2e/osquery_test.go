//go:build linux

package e2e

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery/test/osqueryhost"
)

// guestHost is the guest's osquery with the extension attached, shared by all
// tests of one VM and ended with it.
var guestHost = sync.OnceValues(func() (*osqueryhost.Host, error) {
	dir, err := os.MkdirTemp("/run", "osquery")
	if err != nil {
		return nil, err
	}
	host, err := osqueryhost.Start(context.Background(), osqueryhost.Options{Dir: dir})
	if err != nil {
		return nil, err
	}
	// An emulator beside others may take its time.
	if _, err := host.StartExtension(guestExtension, "--state-dir", dir+"/state", "--query-timeout", "5m"); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), waitForTables)
	defer cancel()
	return host, host.WaitForTable(ctx, "kernel_module_sensors")
})

// query asks the guest's osquery. A row is without the columns that are NULL.
func query(t *testing.T, sql string, args ...any) []map[string]string {
	t.Helper()
	host, err := guestHost()
	require.NoError(t, err)
	rows, err := host.Query(t.Context(), fmt.Sprintf(sql, args...))
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
func latest(t *testing.T) int64 {
	t.Helper()
	rows := query(t, "SELECT coalesce(max(eid), 0) AS eid FROM kernel_module_events")
	require.Len(t, rows, 1)
	return integer(t, rows[0]["eid"])
}

// eventsSince returns the whole rows after an eid, in their order.
func eventsSince(t *testing.T, eid int64) []map[string]string {
	t.Helper()
	return query(t, "SELECT * FROM kernel_module_events WHERE eid > %d ORDER BY eid", eid)
}

func integer(t *testing.T, text string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(text, 10, 64)
	require.NoError(t, err)
	return n
}

func column(rows []map[string]string, name string) []string {
	values := make([]string, len(rows))
	for i, row := range rows {
		values[i] = row[name]
	}
	return values
}

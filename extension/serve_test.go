package main

import (
	"context"
	"io"
	"log"
	"os"
	"strings"
	"testing"
	"time"

	osquery "github.com/osquery/osquery-go"
	gen "github.com/osquery/osquery-go/gen/osquery"
	"github.com/osquery/osquery-go/plugin/table"
	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery/test/osqueryhost"
)

func startHost(t *testing.T) *osqueryhost.Host {
	t.Helper()
	// Not t.TempDir, whose path may be too long for a socket.
	dir, err := os.MkdirTemp("", "osquery")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	host, err := osqueryhost.Start(t.Context(), osqueryhost.Options{Dir: dir, Interval: -1, Output: io.Discard})
	require.NoError(t, err)
	t.Cleanup(func() { host.Close() })
	return host
}

func settings(t *testing.T, host *osqueryhost.Host) *config {
	t.Helper()
	c, err := parse(hostPlatform(), []string{"--socket", host.Socket(), "--interval", "1", "--state-dir", t.TempDir()})
	require.NoError(t, err)
	return c
}

func plugins() []osquery.OsqueryPlugin {
	return []osquery.OsqueryPlugin{table.NewPlugin("anything", []table.ColumnDefinition{table.TextColumn("a")},
		func(context.Context, table.QueryContext) ([]map[string]string, error) { return nil, nil })}
}

// inBackground runs f until its context is done or it ends by itself.
func inBackground(t *testing.T, f func(context.Context) error) (stop context.CancelFunc, ended <-chan error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	result := make(chan error, 1)
	go func() { result <- f(ctx) }()
	return cancel, result
}

// What osquery says in words is told apart by the words that osquery and
// osquery-go really use.
func TestRegistrationErrors(t *testing.T) {
	host := startHost(t)
	c := settings(t, host)
	c.timeout = 1
	_, ended := inBackground(t, func(ctx context.Context) error { return register(ctx, c, plugins()) })
	require.NoError(t, host.WaitForTable(t.Context(), "anything"))

	err := register(t.Context(), c, plugins())
	require.Error(t, err)
	require.True(t, isDuplicate(err), err)
	require.False(t, isGone(err), err)

	require.NoError(t, host.Vanish())
	err = <-ended
	require.Error(t, err)
	require.True(t, isGone(err), err)
	require.False(t, isDuplicate(err), err)

	err = register(t.Context(), c, plugins())
	require.Error(t, err)
	require.False(t, isGone(err), "it was never there: %v", err)
	require.False(t, isDuplicate(err), err)
}

func TestReach(t *testing.T) {
	host := startHost(t)
	c := settings(t, host)
	c.timeout = 1
	require.NoError(t, reach(t.Context(), c))

	require.NoError(t, host.Vanish())
	require.EqualError(t, reach(t.Context(), c),
		"connect to osquery at "+c.socket+": there is no such socket after 1s; is osquery running, with this socket?")

	// Whoever is told to end does not wait for a socket.
	c.timeout = 3600
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, reach(ctx, c))
}

func TestServeEndsInOrder(t *testing.T) {
	host := startHost(t)
	c := settings(t, host)
	var report strings.Builder
	stop, ended := inBackground(t, func(ctx context.Context) error { return serve(ctx, c, log.New(&report, "", 0)) })
	require.NoError(t, host.WaitForTable(t.Context(), "kernel_module_sensors"))
	stop()
	require.NoError(t, <-ended)
	require.Empty(t, host.Extensions())
	entries, err := os.ReadDir(c.socket[:strings.LastIndex(c.socket, "/")])
	require.NoError(t, err)
	for _, entry := range entries {
		require.NotContains(t, entry.Name(), "osquery.em.", "the extension's socket is left behind")
	}
}

func TestServeEndsWhenOsqueryGoesAway(t *testing.T) {
	host := startHost(t)
	c := settings(t, host)
	var report strings.Builder
	_, ended := inBackground(t, func(ctx context.Context) error { return serve(ctx, c, log.New(&report, "", 0)) })
	require.NoError(t, host.WaitForTable(t.Context(), "kernel_module_sensors"))
	require.NoError(t, host.Vanish())
	require.NoError(t, <-ended)
	require.Contains(t, report.String(), "osquery has gone away: ")
}

// osquery forgets a killed extension only with its next round of pings.
func TestServeTriesAgainWhileOsqueryListsItsPredecessor(t *testing.T) {
	host := startHost(t)
	c := settings(t, host)
	client, err := osquery.NewClient(host.Socket(), 3*time.Second)
	require.NoError(t, err)
	defer client.Close()
	status, err := client.RegisterExtension(&gen.InternalExtensionInfo{Name: extensionName}, gen.ExtensionRegistry{})
	require.NoError(t, err)
	require.Zero(t, status.Code, status.Message)

	_, ended := inBackground(t, func(ctx context.Context) error { return serve(ctx, c, log.New(io.Discard, "", 0)) })
	select {
	case err := <-ended:
		require.Fail(t, "it gave up", "%v", err)
	case <-time.After(3 * registerEvery):
	}
	require.True(t, host.DropExtension(status.UUID))
	require.NoError(t, host.WaitForTable(t.Context(), "kernel_module_sensors"))
}

// osquery drops an extension after one ping that it missed, and never says so.
func TestServeRegistersAgainWhatOsqueryDropped(t *testing.T) {
	host := startHost(t)
	c := settings(t, host)
	var report strings.Builder
	stop, ended := inBackground(t, func(ctx context.Context) error { return serve(ctx, c, log.New(&report, "", 0)) })
	for range 3 {
		require.NoError(t, host.WaitForTable(t.Context(), "kernel_module_sensors"))
		time.Sleep(2 * time.Duration(c.interval) * time.Second) // until it has seen itself listed
		for uuid := range host.Extensions() {
			require.True(t, host.DropExtension(uuid))
		}
		require.Empty(t, host.Extensions())
	}
	require.NoError(t, host.WaitForTable(t.Context(), "kernel_module_sensors"))
	stop()
	require.NoError(t, <-ended)
	require.Equal(t, 3, strings.Count(report.String(), "osquery has dropped the tables; registering them again\n"))
}

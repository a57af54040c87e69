package osqueryhost_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/osquery/osquery-go"
	gen "github.com/osquery/osquery-go/gen/osquery"
	"github.com/osquery/osquery-go/plugin/table"
	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery/test/leak"
	"github.com/kmodquery/kmodquery/test/osqueryhost"
)

// childVariable is the environment variable that makes the test binary an extension.
const childVariable = "OSQUERYHOST_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		if err := runChild(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	leak.Main(m)
}

// runChild serves the table child. Its one row has the process ID and the arguments of
// this process.
func runChild() error {
	flags := flag.NewFlagSet("child", flag.ContinueOnError)
	verbose := flags.Bool("verbose", false, "")
	socket := flags.String("socket", "", "")
	timeout := flags.Int("timeout", 0, "")
	interval := flags.Int("interval", 0, "")
	if err := flags.Parse(os.Args[1:]); err != nil {
		return err
	}
	server, err := osquery.NewExtensionManagerServer("child", *socket,
		osquery.ServerTimeout(time.Duration(*timeout)*time.Second),
		osquery.ServerPingInterval(time.Duration(*interval)*time.Second))
	if err != nil {
		return err
	}
	server.RegisterPlugin(table.NewPlugin("child",
		[]table.ColumnDefinition{table.IntegerColumn("pid"), table.TextColumn("flags"), table.TextColumn("rest")},
		func(context.Context, table.QueryContext) ([]map[string]string, error) {
			return []map[string]string{{
				"pid":   strconv.Itoa(os.Getpid()),
				"flags": fmt.Sprint(*verbose, *timeout, *interval),
				"rest":  fmt.Sprint(flags.Args()),
			}}, nil
		}))
	return server.Run()
}

// A toy is a table whose rows a test sets and whose requests a test can read.
type toy struct {
	*table.Plugin

	mu       sync.Mutex
	rows     []map[string]string
	err      error
	requests []gen.ExtensionPluginRequest
}

func newToy(name string) *toy {
	t := &toy{}
	columns := []table.ColumnDefinition{
		table.BigIntColumn("time", table.IndexColumn()), table.TextColumn("name", table.IndexColumn()), table.TextColumn("note"),
	}
	t.Plugin = table.NewPlugin(name, columns, func(context.Context, table.QueryContext) ([]map[string]string, error) {
		t.mu.Lock()
		defer t.mu.Unlock()
		return t.rows, t.err
	})
	return t
}

func (t *toy) Call(ctx context.Context, request gen.ExtensionPluginRequest) gen.ExtensionResponse {
	t.mu.Lock()
	t.requests = append(t.requests, request)
	t.mu.Unlock()
	return t.Plugin.Call(ctx, request)
}

func (t *toy) set(rows ...map[string]string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rows = rows
}

func (t *toy) fail(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.err = err
}

func row(at int, name string) map[string]string {
	return map[string]string{"time": strconv.Itoa(at), "name": name}
}

// start runs a host that pings and polls only on request.
func start(t *testing.T, options osqueryhost.Options) *osqueryhost.Host {
	t.Helper()
	leak.Check(t)
	if options.Dir == "" {
		options.Dir = t.TempDir()
	}
	if options.Interval == 0 {
		options.Interval = -1
	}
	options.HostIdentifier = "host"
	host, err := osqueryhost.Start(t.Context(), options)
	require.NoError(t, err)
	t.Cleanup(func() { host.Close() })
	return host
}

// serve runs an extension in this process until the test ends.
func serve(t *testing.T, host *osqueryhost.Host, name string, plugins ...osquery.OsqueryPlugin) *osquery.ExtensionManagerServer {
	t.Helper()
	server, err := osquery.NewExtensionManagerServer(name, host.Socket(), osquery.ServerTimeout(10*time.Second))
	require.NoError(t, err)
	server.RegisterPlugin(plugins...)
	go server.Start()
	t.Cleanup(func() { server.Shutdown(context.Background()) })
	for _, plugin := range plugins {
		require.NoError(t, host.WaitForTable(t.Context(), plugin.Name()))
	}
	return server
}

func client(t *testing.T, host *osqueryhost.Host) *osquery.ExtensionManagerClient {
	t.Helper()
	client, err := osquery.NewClient(host.Socket(), 10*time.Second)
	require.NoError(t, err)
	t.Cleanup(client.Close)
	return client
}

// onlyUUID returns the number of the only extension.
func onlyUUID(t *testing.T, host *osqueryhost.Host) gen.ExtensionRouteUUID {
	t.Helper()
	extensions := host.Extensions()
	require.Len(t, extensions, 1)
	for uuid := range extensions {
		return uuid
	}
	return 0
}

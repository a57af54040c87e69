package main

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	osquery "github.com/osquery/osquery-go"
	gen "github.com/osquery/osquery-go/gen/osquery"
	"github.com/osquery/osquery-go/plugin/table"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery/test/osqueryhost"
)

func startHost(t *testing.T) *osqueryhost.Host {
	t.Helper()
	// The path of t.TempDir may be too long for a socket.
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

// inBackground runs f in a goroutine. stop ends its context, and ended receives its
// result.
func inBackground(t *testing.T, f func(context.Context) error) (stop context.CancelFunc, ended <-chan error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	result := make(chan error, 1)
	go func() { result <- f(ctx) }()
	return cancel, result
}

// awaitEnd returns the error of a command that ends.
func awaitEnd(t *testing.T, ended <-chan error) error {
	t.Helper()
	select {
	case err := <-ended:
		return err
	case <-time.After(time.Minute):
		require.Fail(t, "it goes on")
		return nil
	}
}

// An extension that osquery lists is not registered again, because osquery would log an
// error. The host refuses extensions with osquery's own messages, which isConflict
// recognises.
func TestRegister(t *testing.T) {
	host := startHost(t)
	c := settings(t, host)
	offered := func(ctx context.Context) error {
		return register(ctx, c, &offeredTables{plugins: plugins()}, func() {})
	}
	stop, ended := inBackground(t, offered)
	require.NoError(t, host.WaitForTable(t.Context(), "anything"))

	require.ErrorIs(t, offered(t.Context()), errServed)

	stop()
	require.NoError(t, <-ended)
	client, err := osquery.NewClient(host.Socket(), 3*time.Second)
	require.NoError(t, err)
	defer client.Close()
	other, err := client.RegisterExtension(&gen.InternalExtensionInfo{Name: "other"}, gen.ExtensionRegistry{"table": {"anything": plugins()[0].Routes()}})
	require.NoError(t, err)
	var refusal refusalError
	require.ErrorAs(t, offered(t.Context()), &refusal)
	require.Equal(t, refusalError("Failed adding registry: Registry item anything conflicts with another item of the same name."), refusal)
	require.True(t, refusal.isConflict())
	require.True(t, host.DropExtension(other.UUID))

	// An extension of the same name has another number.
	_, ended = inBackground(t, offered)
	require.NoError(t, host.WaitForTable(t.Context(), "anything"))
	for uuid := range host.Extensions() {
		require.True(t, host.DropExtension(uuid))
	}
	_, err = client.RegisterExtension(&gen.InternalExtensionInfo{Name: extensionName}, gen.ExtensionRegistry{})
	require.NoError(t, err)
	require.ErrorIs(t, <-ended, errUnlisted)
	require.ErrorIs(t, offered(t.Context()), errListed)
}

// Two extensions may register at the same time.
func TestARefusalOfADuplicateIsAConflict(t *testing.T) {
	host := startHost(t)
	client, err := osquery.NewClient(host.Socket(), 3*time.Second)
	require.NoError(t, err)
	defer client.Close()
	for _, want := range []string{"OK", "Duplicate extension registered"} {
		status, err := client.RegisterExtension(&gen.InternalExtensionInfo{Name: extensionName}, gen.ExtensionRegistry{})
		require.NoError(t, err)
		require.Equal(t, want, status.Message)
	}
	require.Same(t, refused, obstacleOf(refusalError("Duplicate extension registered")))
	require.Nil(t, obstacleOf(refusalError("Incompatible extension SDK version")))
}

func TestRegisterEndsWithOsquery(t *testing.T) {
	host := startHost(t)
	c := settings(t, host)
	_, ended := inBackground(t, func(ctx context.Context) error {
		return register(ctx, c, &offeredTables{plugins: plugins()}, func() {})
	})
	require.NoError(t, host.WaitForTable(t.Context(), "anything"))
	require.NoError(t, host.Vanish())
	require.ErrorIs(t, <-ended, os.ErrNotExist)

	host = startHost(t)
	c = settings(t, host)
	_, ended = inBackground(t, func(ctx context.Context) error {
		return register(ctx, c, &offeredTables{plugins: plugins()}, func() {})
	})
	require.NoError(t, host.WaitForTable(t.Context(), "anything"))
	require.NoError(t, host.Close())
	require.ErrorIs(t, <-ended, errAsked)

	// Nothing is registered after ctx has ended.
	host = startHost(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.Error(t, register(ctx, settings(t, host), &offeredTables{plugins: plugins()}, func() { t.Error("registered") }))
	require.Empty(t, host.Extensions())
}

// An osquery that accepts a connection but does not answer is busy.
func TestABusyOsqueryIsNotLost(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", path)
	require.NoError(t, err)
	defer listener.Close()
	asked := make(chan net.Conn)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			asked <- conn
		}
	}()
	stop, lost := inBackground(t, func(ctx context.Context) error {
		return awaitLoss(ctx, &config{socket: path, timeout: 1, interval: 1}, 7)
	})
	for range 3 {
		select {
		case conn := <-asked:
			defer conn.Close()
		case err := <-lost:
			require.Fail(t, "osquery counts as lost", "%v", err)
		}
	}
	stop()
	require.NoError(t, <-lost)
}

func TestReach(t *testing.T) {
	host := startHost(t)
	c := settings(t, host)
	c.timeout = 1
	require.NoError(t, reach(t.Context(), c))

	require.NoError(t, host.Vanish())
	require.EqualError(t, reach(t.Context(), c),
		"connect to osquery at "+c.socket+": there is no such socket after 1s; is osquery running, with this socket?")

	// reach does not wait for a socket after ctx has ended.
	c.timeout = 3600
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, reach(ctx, c))
}

func TestServeEndsWithItsContext(t *testing.T) {
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

// serve registers the tables with the next osquery, whether the last one was killed or
// shut down.
func TestServeWaitsForOsquery(t *testing.T) {
	host := startHost(t)
	c := settings(t, host)
	var report strings.Builder
	stop, ended := inBackground(t, func(ctx context.Context) error { return serve(ctx, c, log.New(&report, "", 0)) })
	for _, killed := range []bool{true, false} {
		require.NoError(t, host.WaitForTable(t.Context(), "kernel_module_sensors"))
		if killed {
			require.NoError(t, host.Vanish())
		} else {
			require.NoError(t, host.Close())
		}
		next, err := osqueryhost.Start(t.Context(), osqueryhost.Options{Dir: filepath.Dir(c.socket), Interval: -1, Output: io.Discard})
		require.NoError(t, err)
		t.Cleanup(func() { next.Close() })
		host = next
	}
	require.NoError(t, host.WaitForTable(t.Context(), "kernel_module_sensors"))
	stop()
	require.NoError(t, <-ended)
	require.Empty(t, host.Extensions())
}

func TestAwaitOrphaned(t *testing.T) {
	host := startHost(t)
	const gone = -1
	_, orphaned := inBackground(t, func(ctx context.Context) error {
		if !awaitOrphaned(ctx, gone, host.Socket()) {
			return errors.New("awaitOrphaned returned false")
		}
		return nil
	})
	select {
	case <-orphaned:
		require.Fail(t, "osquery still runs")
	case <-time.After(2 * parentEvery):
	}
	require.NoError(t, host.Vanish())
	require.NoError(t, <-orphaned)

	ctx, cancel := context.WithTimeout(t.Context(), 2*parentEvery)
	defer cancel()
	require.False(t, awaitOrphaned(ctx, os.Getppid(), host.Socket()), "the parent still runs")
}

func TestABusyOsqueryIsListening(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux distinguishes a busy socket from one without a listener")
	}
	dir := shortDir(t)
	busy, gone := filepath.Join(dir, "busy"), filepath.Join(dir, "gone")
	require.False(t, isListening(gone))
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	require.NoError(t, err)
	defer unix.Close(fd)
	require.NoError(t, unix.Bind(fd, &unix.SockaddrUnix{Name: busy}))
	require.False(t, isListening(busy), "no process listens")
	require.NoError(t, unix.Listen(fd, 0))
	for range 3 { // fills the queue of connections that were not accepted
		conn, err := net.DialTimeout("unix", busy, parentEvery)
		if err == nil {
			defer conn.Close()
		}
	}
	require.True(t, isListening(busy))
}

// reporting returns a logger, and the lines that it was given.
func reporting() (*log.Logger, *reportLines) {
	lines := &reportLines{}
	return log.New(lines, "", 0), lines
}

func discard() *log.Logger { return log.New(io.Discard, "", 0) }

// osquery lists a killed extension until its next round of pings.
func TestServeRetriesWhileOsqueryListsAKilledExtension(t *testing.T) {
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
		require.Fail(t, "serve returned", "%v", err)
	case <-time.After(3 * registerEvery):
	}
	require.True(t, host.DropExtension(status.UUID))
	require.NoError(t, host.WaitForTable(t.Context(), "kernel_module_sensors"))
}

// osquery drops an extension after one ping that was not answered, without notice.
func TestServeRegistersDroppedTablesAgain(t *testing.T) {
	host := startHost(t)
	c := settings(t, host)
	var report strings.Builder
	stop, ended := inBackground(t, func(ctx context.Context) error { return serve(ctx, c, log.New(&report, "", 0)) })
	for range 3 {
		require.NoError(t, host.WaitForTable(t.Context(), "kernel_module_sensors"))
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

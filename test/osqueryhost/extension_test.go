package osqueryhost_test

import (
	"context"
	"encoding/json"
	"os"
	"strconv"
	"testing"
	"time"

	gen "github.com/osquery/osquery-go/gen/osquery"
	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery/test/osqueryhost"
)

func TestTableRequestsMatchOsquerys(t *testing.T) {
	host := start(t, osqueryhost.Options{})
	toy := newToy("toy")
	toy.set(row(5, "five"), row(7, "seven"))
	serve(t, host, "extension", toy)

	rows, err := host.Query(t.Context(), "SELECT name FROM toy WHERE time > 5")
	require.NoError(t, err)
	require.Equal(t, []map[string]string{{"name": "seven"}}, rows)

	require.Len(t, toy.requests, 1)
	require.Equal(t, "generate", toy.requests[0]["action"])
	var asked struct {
		Constraints []struct {
			Name string
			List json.RawMessage
		}
		ColsUsed       []string
		ColsUsedBitset uint64
	}
	require.NoError(t, json.Unmarshal([]byte(toy.requests[0]["context"]), &asked))
	require.ElementsMatch(t, []string{"time", "name"}, asked.ColsUsed)
	require.EqualValues(t, 0b011, asked.ColsUsedBitset)
	lists := map[string]string{}
	for _, constraint := range asked.Constraints {
		lists[constraint.Name] = string(constraint.List)
	}
	require.JSONEq(t, `[{"op": 4, "expr": "5"}]`, lists["time"])
}

func TestRegistryTables(t *testing.T) {
	host := start(t, osqueryhost.Options{Version: "5.19.0"})
	serve(t, host, "extension", newToy("toy"))
	uuid := strconv.FormatInt(int64(onlyUUID(t, host)), 10)

	rows, err := host.Query(t.Context(), "SELECT * FROM osquery_registry WHERE registry = 'table' AND name IN ('toy', 'time') ORDER BY name")
	require.NoError(t, err)
	require.Equal(t, []map[string]string{
		{"registry": "table", "name": "time", "owner_uuid": "0", "internal": "0", "active": "1"},
		{"registry": "table", "name": "toy", "owner_uuid": uuid, "internal": "0", "active": "1"},
	}, rows)

	rows, err = host.Query(t.Context(), "SELECT * FROM osquery_extensions ORDER BY uuid")
	require.NoError(t, err)
	require.Equal(t, []map[string]string{
		{"uuid": "0", "name": "core", "version": "5.19.0", "sdk_version": "5.19.0", "path": host.Socket() + ".0", "type": "core"},
		{"uuid": uuid, "name": "extension", "version": "", "sdk_version": "", "path": host.Socket() + "." + uuid, "type": "extension"},
	}, rows)
}

func TestPingsKeepALiveExtension(t *testing.T) {
	host := start(t, osqueryhost.Options{})
	serve(t, host, "extension", newToy("toy"))
	for range 3 {
		host.PingExtensions(t.Context())
	}
	require.Len(t, host.Extensions(), 1)
}

// One failed round is enough, and the extension is not notified: its own pings of core
// still succeed.
func TestOneFailedPingRoundRemovesTables(t *testing.T) {
	host := start(t, osqueryhost.Options{})
	server := serve(t, host, "extension", newToy("toy"))
	host.PingExtensions(t.Context())
	require.NoError(t, os.Remove(host.Socket()+"."+strconv.FormatInt(int64(onlyUUID(t, host)), 10)))

	host.PingExtensions(t.Context())
	require.Empty(t, host.Extensions())
	_, err := host.Query(t.Context(), "SELECT * FROM toy")
	require.ErrorContains(t, err, "vtable constructor failed: toy")
	status, err := server.Ping(t.Context())
	require.NoError(t, err)
	require.Zero(t, status.Code)
}

func TestExtensionThatNeverServesIsRemoved(t *testing.T) {
	host := start(t, osqueryhost.Options{Timeout: time.Millisecond})
	status, err := client(t, host).RegisterExtension(&gen.InternalExtensionInfo{Name: "mute"},
		gen.ExtensionRegistry{"table": {"mute": {{"id": "column", "name": "a", "type": "TEXT", "op": "0"}}}})
	require.NoError(t, err)
	require.Zero(t, status.Code, status.Message)
	_, err = host.Query(t.Context(), "SELECT * FROM mute")
	require.ErrorContains(t, err, "Extension socket not available")

	host.PingExtensions(t.Context())
	require.Empty(t, host.Extensions())
}

func TestDroppedExtensionMayRegisterAgain(t *testing.T) {
	host := start(t, osqueryhost.Options{})
	toy := newToy("toy")
	serve(t, host, "extension", toy)
	require.True(t, host.DropExtension(onlyUUID(t, host)))
	require.False(t, host.DropExtension(1))
	serve(t, host, "extension", toy)
	_, err := host.Query(t.Context(), "SELECT * FROM toy")
	require.NoError(t, err)
}

func TestExtensionProcess(t *testing.T) {
	t.Setenv(childVariable, "1")
	binary, err := os.Executable()
	require.NoError(t, err)
	host := start(t, osqueryhost.Options{Verbose: true, Timeout: 5 * time.Second, Interval: -1})
	child, err := host.StartExtension(binary, "extra")
	require.NoError(t, err)
	require.NoError(t, host.WaitForTable(t.Context(), "child"))
	rows, err := host.Query(t.Context(), "SELECT * FROM child")
	require.NoError(t, err)
	require.Equal(t, []map[string]string{{"pid": strconv.Itoa(child.PID()), "flags": "true 5 1", "rest": "[extra]"}}, rows)

	host.PollChildren()
	require.Equal(t, 1, child.Starts(), "a live process is left alone")

	require.NoError(t, child.Signal(os.Kill))
	<-child.Exited()
	_, err = host.Query(t.Context(), "SELECT * FROM child")
	require.ErrorContains(t, err, "Extension socket not available")
	host.PingExtensions(t.Context())
	host.PollChildren()
	require.Equal(t, 2, child.Starts())
	require.NoError(t, host.WaitForTable(t.Context(), "child"))
	rows, err = host.Query(t.Context(), "SELECT pid FROM child")
	require.NoError(t, err)
	require.Equal(t, []map[string]string{{"pid": strconv.Itoa(child.PID())}}, rows)

	require.NoError(t, host.Close())
	<-child.Exited()
	_, err = os.Stat(host.Socket())
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = host.StartExtension(binary)
	require.ErrorContains(t, err, "the host was closed")
}

// The registration of a killed process stays until the next ping round, so core refuses
// its successor: an extension must retry.
func TestRestartBeforeThePingRoundIsADuplicate(t *testing.T) {
	t.Setenv(childVariable, "1")
	binary, err := os.Executable()
	require.NoError(t, err)
	host := start(t, osqueryhost.Options{})
	child, err := host.StartExtension(binary)
	require.NoError(t, err)
	require.NoError(t, host.WaitForTable(t.Context(), "child"))
	require.NoError(t, child.Signal(os.Kill))
	<-child.Exited()
	host.PollChildren()
	<-child.Exited() // core refused it, and this extension does not retry
	host.PingExtensions(t.Context())
	host.PollChildren()
	require.NoError(t, host.WaitForTable(t.Context(), "child"))
	require.Equal(t, 3, child.Starts())
}

func TestWatchersRunByThemselves(t *testing.T) {
	t.Setenv(childVariable, "1")
	binary, err := os.Executable()
	require.NoError(t, err)
	host := start(t, osqueryhost.Options{Interval: 200 * time.Millisecond})
	child, err := host.StartExtension(binary)
	require.NoError(t, err)
	require.NoError(t, host.WaitForTable(t.Context(), "child"))
	first := child.PID()
	require.NoError(t, child.Signal(os.Kill))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for ctx.Err() == nil {
		require.NoError(t, host.WaitForTable(ctx, "child"))
		if rows, err := host.Query(ctx, "SELECT pid FROM child"); err == nil && rows[0]["pid"] != strconv.Itoa(first) {
			return
		}
	}
	t.Fatal("the extension was not started again")
}

func TestVanish(t *testing.T) {
	t.Setenv(childVariable, "1")
	binary, err := os.Executable()
	require.NoError(t, err)
	host := start(t, osqueryhost.Options{})
	child, err := host.StartExtension(binary)
	require.NoError(t, err)
	require.NoError(t, host.WaitForTable(t.Context(), "child"))
	require.NoError(t, host.Vanish())
	<-child.Exited() // it ends because its ping of core failed
	require.NoError(t, host.Close())
}

package osqueryhost_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	gen "github.com/osquery/osquery-go/gen/osquery"
	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery/test/osqueryhost"
)

func TestRegistrationIsRefusedInOsquerysWords(t *testing.T) {
	column := gen.ExtensionPluginResponse{{"id": "column", "name": "a", "type": "TEXT", "op": "0"}}
	tables := func(name string, columns gen.ExtensionPluginResponse) gen.ExtensionRegistry {
		return gen.ExtensionRegistry{"table": {name: columns}, "config": {}, "logger": {}}
	}
	for name, test := range map[string]struct {
		info     gen.InternalExtensionInfo
		registry gen.ExtensionRegistry
		message  string
	}{
		"same name":        {gen.InternalExtensionInfo{Name: "first"}, tables("other", column), "Duplicate extension registered"},
		"same table":       {gen.InternalExtensionInfo{Name: "second"}, tables("first", column), "Failed adding registry: Registry item first conflicts with another item of the same name."},
		"table of core":    {gen.InternalExtensionInfo{Name: "second"}, tables("time", column), "Failed adding registry: Registry item time conflicts with another item of the same name."},
		"no columns":       {gen.InternalExtensionInfo{Name: "second"}, tables("other", nil), "Failed adding registry: Invalid route info"},
		"unknown registry": {gen.InternalExtensionInfo{Name: "second"}, gen.ExtensionRegistry{"tables": {}}, "Failed adding registry: Unknown registry: tables"},
		"old SDK":          {gen.InternalExtensionInfo{Name: "second", SdkVersion: "1.7.6"}, tables("other", column), "Incompatible extension SDK version"},
	} {
		t.Run(name, func(t *testing.T) {
			client := client(t, start(t, osqueryhost.Options{Dir: shortDir(t)}))
			status, err := client.RegisterExtension(&gen.InternalExtensionInfo{Name: "first", SdkVersion: "5.0.1"}, tables("first", column))
			require.NoError(t, err)
			require.Zero(t, status.Code, status.Message)

			status, err = client.RegisterExtension(&test.info, test.registry)
			require.NoError(t, err)
			require.EqualValues(t, 1, status.Code)
			require.Equal(t, test.message, status.Message)
			list, err := client.Extensions()
			require.NoError(t, err)
			require.Len(t, list, 1)
		})
	}
}

func TestDeregister(t *testing.T) {
	host := start(t, osqueryhost.Options{})
	toy := newToy("toy")
	serve(t, host, "extension", toy)
	client := client(t, host)

	status, err := client.DeregisterExtension(onlyUUID(t, host))
	require.NoError(t, err)
	require.Zero(t, status.Code, status.Message)
	require.Empty(t, host.Extensions())
	_, err = host.Query(t.Context(), "SELECT * FROM toy")
	require.ErrorContains(t, err, "vtable constructor failed: toy")

	status, err = client.DeregisterExtension(1 << 20)
	require.NoError(t, err)
	require.EqualValues(t, 1, status.Code)
	require.Equal(t, "No extension UUID found", status.Message)
}

func TestManagerAnswersExtensions(t *testing.T) {
	host := start(t, osqueryhost.Options{Verbose: true})
	toy := newToy("toy")
	toy.set(row(7, "seven"))
	serve(t, host, "extension", toy)
	client := client(t, host)

	status, err := client.Ping()
	require.NoError(t, err)
	require.Equal(t, "pong", status.Message)

	options, err := client.Options()
	require.NoError(t, err)
	require.Equal(t, host.Socket(), options["extensions_socket"].Value)
	require.Equal(t, "true", options["verbose"].Value)

	rows, err := client.QueryRows("SELECT time, name, note FROM toy")
	require.NoError(t, err)
	require.Equal(t, []map[string]string{{"time": "7", "name": "seven", "note": ""}}, rows)
	_, err = client.QueryRows("SELECT missing FROM toy")
	require.ErrorContains(t, err, "no such column: missing")

	columns, err := client.GetQueryColumns("SELECT name, time FROM toy;")
	require.NoError(t, err)
	require.Equal(t, gen.ExtensionPluginResponse{{"name": "TEXT"}, {"time": "BIGINT"}}, columns.Response)

	response, err := client.Call("table", "toy", gen.ExtensionPluginRequest{"action": "generate", "context": "{}"})
	require.NoError(t, err)
	require.Equal(t, gen.ExtensionPluginResponse{row(7, "seven")}, response.Response)
	response, err = client.Call("table", "osquery_extensions", gen.ExtensionPluginRequest{"action": "generate"})
	require.NoError(t, err)
	require.Len(t, response.Response, 2)
	response, err = client.Call("table", "missing", gen.ExtensionPluginRequest{"action": "generate"})
	require.NoError(t, err)
	require.Equal(t, "Cannot call registry item: missing", response.Status.Message)
	response, err = client.Call("tables", "toy", nil)
	require.NoError(t, err)
	require.Equal(t, "Unknown registry requested: tables", response.Status.Message)
}

func TestTableErrorReachesTheQuery(t *testing.T) {
	host := start(t, osqueryhost.Options{})
	toy := newToy("toy")
	toy.fail(errors.New("store is locked"))
	serve(t, host, "extension", toy)
	_, err := host.Query(t.Context(), "SELECT * FROM toy")
	require.ErrorContains(t, err, "error generating table: store is locked")
}

func TestSocketPathHasRoomForTheNumber(t *testing.T) {
	_, err := osqueryhost.Start(t.Context(), osqueryhost.Options{Dir: t.TempDir(), Socket: "/tmp/" + strings.Repeat("s", 93)})
	require.ErrorContains(t, err, "has 98 characters, at most 97 are possible")
}

// shortDir returns a temporary folder whose path does not contain the test's name.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "host")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

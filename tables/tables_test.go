package tables

import (
	"context"
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/osquery/osquery-go"
	gen "github.com/osquery/osquery-go/gen/osquery"
	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/tables/signatures"
	"github.com/kmodquery/kmodquery/tables/sqlite"
	"github.com/kmodquery/kmodquery/test/leak"
)

func ptr[T any](v T) *T { return &v }

// A recorder stands for the sources. Sync stores its pending events.
type recorder struct {
	store   *sqlite.Store
	pending []kmodquery.Event
	sensors []kmodquery.Sensor
	err     error
}

func (r *recorder) Sync(ctx context.Context) error {
	if r.err != nil {
		return r.err
	}
	deliveries := make([]kmodquery.Delivery, len(r.pending))
	for i, event := range r.pending {
		deliveries[i].Event = event
	}
	r.pending = nil
	return r.store.Append(ctx, deliveries)
}

func (r *recorder) Sensors(context.Context) []kmodquery.Sensor { return r.sensors }

// storedTime is when the stores of these tests store their events, in Unix time.
const storedTime = 1_700_000_000

func openStore(t testing.TB) *sqlite.Store {
	t.Helper()
	leak.Check(t)
	store, err := sqlite.Open(context.Background(), t.TempDir(), sqlite.Options{Now: func() time.Time { return time.Unix(storedTime, 0) }})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	return store
}

// testConfig returns a configuration with an open store, in which the first query stores
// the events.
func testConfig(t testing.TB, events ...kmodquery.Event) Config {
	t.Helper()
	store := openStore(t)
	return Config{
		Store:      store,
		Cursors:    store,
		Recorder:   &recorder{store: store, pending: events},
		Signatures: []kmodquery.Signature{trc1017(t)},
		Kernel:     "6.1.0-test",
	}
}

// trc1017 is the one signature of most tests: what they expect must not depend on how
// many there are.
func trc1017(t testing.TB) kmodquery.Signature {
	t.Helper()
	all := signatures.All()
	at := slices.IndexFunc(all, func(s kmodquery.Signature) bool { return s.ID == "TRC-1017" })
	require.GreaterOrEqual(t, at, 0)
	return all[at]
}

type constraint struct {
	column, expr string
	op           int
}

// contextJSON returns the context that osquery would send.
func contextJSON(t testing.TB, used []string, constraints ...constraint) string {
	t.Helper()
	type item struct {
		Op   int    `json:"op"`
		Expr string `json:"expr"`
	}
	type column struct {
		Name     string `json:"name"`
		Affinity string `json:"affinity"`
		List     []item `json:"list"`
	}
	var columns []column
	for _, c := range constraints {
		i := 0
		for i < len(columns) && columns[i].Name != c.column {
			i++
		}
		if i == len(columns) {
			columns = append(columns, column{Name: c.column, Affinity: "TEXT"})
		}
		columns[i].List = append(columns[i].List, item{c.op, c.expr})
	}
	context := map[string]any{"constraints": columns}
	if used != nil {
		context["colsUsed"] = used
	}
	text, err := json.Marshal(context)
	require.NoError(t, err)
	return string(text)
}

func call(t testing.TB, c Config, table, context string) gen.ExtensionResponse {
	t.Helper()
	return pluginNamed(t, c, table).Call(t.Context(), gen.ExtensionPluginRequest{"action": "generate", "context": context})
}

func pluginNamed(t testing.TB, c Config, table string) osquery.OsqueryPlugin {
	t.Helper()
	for _, p := range Plugins(c) {
		if p.Name() == table {
			return p
		}
	}
	t.Fatalf("there is no table %s", table)
	return nil
}

func rowsOf(t testing.TB, c Config, table, context string) []map[string]string {
	t.Helper()
	response := call(t, c, table, context)
	require.Zero(t, response.Status.Code, response.Status.Message)
	return response.Response
}

func errorOf(t testing.TB, c Config, table, context string) string {
	t.Helper()
	response := call(t, c, table, context)
	require.EqualValues(t, 1, response.Status.Code)
	require.Nil(t, response.Response)
	require.NotContains(t, response.Status.Message, "\n")
	return response.Status.Message
}

// column returns one column of rows, with "NULL" for NULL.
func column(rows []map[string]string, name string) []string {
	values := []string{}
	for _, row := range rows {
		value, ok := row[name]
		if !ok {
			value = "NULL"
		}
		values = append(values, value)
	}
	return values
}

// full returns an event with a different value in every column.
func full() kmodquery.Event {
	var e kmodquery.Event
	for i, column := range kmodquery.EventColumns() {
		number, text := int64(1000+i), "text of "+column.Name
		switch pointer := column.Pointer(&e).(type) {
		case *int64:
			*pointer = number
		case **int64:
			*pointer = &number
		case *string:
			*pointer = text
		case **string:
			*pointer = &text
		}
	}
	return e
}

package tables

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/osquery/osquery-go"
	gen "github.com/osquery/osquery-go/gen/osquery"
	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

// statusOnly is a store with a status and nothing else.
type statusOnly struct {
	Store
	status kmodquery.StoreStatus
	err    error
}

func (s statusOnly) Status(context.Context) (kmodquery.StoreStatus, error) { return s.status, s.err }

func TestSensorsShowEveryColumn(t *testing.T) {
	c := testConfig(t)
	c.Store = statusOnly{status: kmodquery.StoreStatus{Path: "/var/lib/x", Role: "recorder", Rows: 20, Bytes: 21, OldestTime: 22, FirstEID: 30, Errors: 23, Damaged: 24, Skipped: 25,
		Totals: kmodquery.StoreTotals{Rows: new(int64(26)), UnprivilegedRows: new(int64(27)), Sum: "a", UnprivilegedSum: "b", SumsAfter: new(int64(28)), LastEID: new(int64(29))}}}
	c.Rules = func() kmodquery.RuleSet {
		return kmodquery.RuleSet{Status: kmodquery.RuleStatus{Rules: 31, RulesHash: "c", Expectations: 32, ExpectationsHash: "d", Errors: 33, Reason: "a\nb"}}
	}
	c.Recorder = &recorder{sensors: []kmodquery.Sensor{
		{Source: "ebpf", State: "active", Since: 1, Hooks: `["module_load (tp_btf)"]`, Received: 2, Lost: 3, Filtered: 12, DecodeErrors: 4,
			EnrichErrors: 5, Denied: 6, Joined: 8, LastEventTime: 7, GapStart: 10, GapEnd: 11, Shed: 9},
		{Source: "audit", State: "unavailable", Reason: "no permission;\nrun as root"},
	}}
	require.Equal(t, []map[string]string{
		{"rowid": "1", "source": "ebpf", "state": "active", "since": "1", "hooks": `["module_load (tp_btf)"]`, "received": "2", "lost": "3", "filtered": "12",
			"decode_errors": "4", "enrich_errors": "5", "store_errors": "23", "shed": "9", "damaged_rows": "24", "denied": "6", "joined": "8", "last_event_time": "7",
			"gap_start": "10", "gap_end": "11", "role": "recorder",
			"store_path": "/var/lib/x", "store_rows": "20", "store_bytes": "21", "oldest_time": "22", "expired_unread": "25", "recorded_rows": "26", "recorded_unprivileged_rows": "27",
			"recorded_sum": "a", "recorded_unprivileged_sum": "b", "sums_after": "28", "first_eid": "30", "last_eid": "29",
			"rules": "31", "rules_hash": "c", "expectations": "32", "expectations_hash": "d", "rule_errors": "33", "rules_reason": `a\x0ab`, "kernel": "6.1.0-test", "version": kmodquery.Version},
		{"rowid": "2", "source": "audit", "state": "unavailable", "reason": `no permission;\x0arun as root`, "received": "0", "lost": "0", "filtered": "0",
			"decode_errors": "0", "enrich_errors": "0", "store_errors": "23", "shed": "0", "damaged_rows": "24", "denied": "0", "joined": "0", "role": "recorder",
			"store_path": "/var/lib/x", "store_rows": "20", "store_bytes": "21", "oldest_time": "22", "expired_unread": "25", "recorded_rows": "26", "recorded_unprivileged_rows": "27",
			"recorded_sum": "a", "recorded_unprivileged_sum": "b", "sums_after": "28", "first_eid": "30", "last_eid": "29",
			"rules": "31", "rules_hash": "c", "expectations": "32", "expectations_hash": "d", "rule_errors": "33", "rules_reason": `a\x0ab`, "kernel": "6.1.0-test", "version": kmodquery.Version},
	}, rowsOf(t, c, "kernel_module_sensors", "{}"))
	require.Equal(t, []map[string]string{{"rowid": "1", "lost": "3"}, {"rowid": "2", "lost": "0"}},
		rowsOf(t, c, "kernel_module_sensors", contextJSON(t, []string{"lost", "since_when"})))
	require.Equal(t, []map[string]string{{}, {}}, rowsOf(t, c, "kernel_module_sensors", contextJSON(t, []string{})))
}

func TestSensorsOfAnEmptyStore(t *testing.T) {
	c := testConfig(t)
	c.Recorder = &recorder{sensors: []kmodquery.Sensor{{Source: "ebpf"}}}
	rows := rowsOf(t, c, "kernel_module_sensors", contextJSON(t, []string{"role", "store_rows", "oldest_time"}))
	require.Equal(t, []map[string]string{{"rowid": "1", "role": "recorder", "store_rows": "0"}}, rows)
}

func TestSensorsReportAFailingStore(t *testing.T) {
	for name, test := range map[string]struct {
		store  statusOnly
		sensor kmodquery.Sensor
		want   string
	}{
		"it cannot be read":    {statusOnly{err: errors.New("count events: disk is gone")}, kmodquery.Sensor{}, "count events: disk is gone"},
		"it takes nothing":     {statusOnly{}, kmodquery.Sensor{StoreReason: "store: disk full; 3 events wait in memory, 1 was dropped"}, "store: disk full; 3 events wait in memory, 1 was dropped"},
		"it was damaged":       {statusOnly{status: kmodquery.StoreStatus{Trouble: "damaged"}}, kmodquery.Sensor{}, "damaged"},
		"it was, and is again": {statusOnly{status: kmodquery.StoreStatus{Trouble: "damaged"}}, kmodquery.Sensor{StoreReason: "full"}, "full. damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			c := testConfig(t)
			c.Store = test.store
			c.Recorder = &recorder{sensors: []kmodquery.Sensor{test.sensor}}
			rows := rowsOf(t, c, "kernel_module_sensors", contextJSON(t, []string{"store_reason"}))
			require.Equal(t, []map[string]string{{"rowid": "1", "store_reason": test.want}}, rows)
		})
	}
}

func TestSensorsDoNotGuessTheSizesOfAStoreThatCannotBeRead(t *testing.T) {
	c := testConfig(t)
	c.Store = statusOnly{status: kmodquery.StoreStatus{Role: kmodquery.RoleRecorder, Errors: 3}, err: errors.New("count events: disk is gone")}
	c.Recorder = &recorder{sensors: []kmodquery.Sensor{{Source: "ebpf"}}}
	rows := rowsOf(t, c, "kernel_module_sensors", contextJSON(t, []string{"store_errors", "store_rows", "store_bytes", "oldest_time", "expired_unread",
		"recorded_rows", "recorded_sum", "recorded_unprivileged_rows", "recorded_unprivileged_sum", "sums_after", "first_eid", "last_eid"}))
	require.Equal(t, []map[string]string{{"rowid": "1", "store_errors": "3"}}, rows)
}

// hangingStore is a store whose disk does not answer.
type hangingStore struct {
	Store
	release chan struct{}
}

func (s hangingStore) Status(ctx context.Context) (kmodquery.StoreStatus, error) {
	<-ctx.Done()
	return kmodquery.StoreStatus{Role: kmodquery.RoleRecorder}, errors.New("it does not answer")
}

func (s hangingStore) Events(context.Context, kmodquery.Filter, func(*kmodquery.Event) error) error {
	<-s.release
	return errors.New("it was released")
}

func TestSensorsAnswerWhileTheStoreHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := Config{Store: hangingStore{release: make(chan struct{})}, Recorder: &recorder{err: kmodquery.ErrNotStored, sensors: []kmodquery.Sensor{{Source: "ebpf", State: "active"}}}}
		plugins := map[string]osquery.OsqueryPlugin{}
		for _, plugin := range Plugins(c) {
			plugins[plugin.Name()] = plugin
		}
		generate := func(table, used string) gen.ExtensionResponse {
			return plugins[table].Call(t.Context(), gen.ExtensionPluginRequest{"action": "generate", "context": used})
		}
		for range concurrency {
			go generate("kernel_module_events", "{}")
		}
		synctest.Wait()
		start := time.Now()
		response := generate("kernel_module_sensors", contextJSON(t, []string{"state", "role", "store_reason", "store_rows"}))
		require.Equal(t, gen.ExtensionPluginResponse{{"rowid": "1", "state": "active", "role": "recorder", "store_reason": "it does not answer"}}, response.Response)
		require.Equal(t, DefaultTimeout/2, time.Since(start))
		close(c.Store.(hangingStore).release)
	})
}

package tables

import (
	"context"
	"encoding/json"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

// loadedTwice returns the events of a load by file and of a load from memory, and an event
// that belongs to neither.
func loadedTwice() []kmodquery.Event {
	return []kmodquery.Event{
		{Time: 10, Source: "ebpf", EventName: "security_kernel_read_file", Type: "kernel-module", Path: "/dummy.ko", LoadID: "a", Origin: "file"},
		{Time: 10, Source: "ebpf", EventName: "module_load", Name: "dummy", LoadID: "a", Origin: "file"},
		{Time: 10, Source: "ebpf", EventName: "finit_module", Name: "dummy", LoadID: "a", Result: ptr(int64(0))},
		{Time: 11, Source: "ebpf", EventName: "security_kernel_read_file", Type: "firmware", Path: "/fw.bin"},
		{Time: 12, Source: "ebpf", EventName: "init_module", Name: "dummy", LoadID: "b", Origin: "memory", Result: ptr(int64(-17)),
			Error: "EEXIST", ProcessName: "insmod", Pid: ptr(int64(12)), UID: ptr(int64(0)), Cmdline: "insmod \x1b <&>"},
	}
}

func TestFindingsHaveTheirMetadataAndTheirEvent(t *testing.T) {
	c := testConfig(t, loadedTwice()...)
	rows := rowsOf(t, c, "kernel_module_findings", "{}")
	require.Equal(t, []string{"init_module", "security_kernel_read_file"}, column(rows, "trigger"))
	event := rows[0]["event"]
	delete(rows[0], "event")
	require.Equal(t, map[string]string{
		"rowid":                "5",
		"signature_id":         "TRC-1017",
		"signature_version":    "1",
		"signature_name":       "Kernel module loading detected",
		"event_name":           "kernel_module_loading",
		"description":          c.Signatures[0].Description,
		"severity":             "2",
		"category":             "persistence",
		"technique":            "Kernel Modules and Extensions",
		"kubernetes_technique": "N/A",
		"attack_id":            "attack-pattern--a1b52199-c8c5-438a-9ded-656f1d0888c6",
		"external_id":          "T1547.006",
		"reason":               `init_module: loading "dummy" from memory by insmod (pid 12, uid 0) failed with EEXIST`,
		"eid":                  "5",
		"time":                 "12",
		"trigger":              "init_module",
		"load_id":              "b",
		"name":                 "dummy",
		"origin":               "memory",
		"result":               "-17",
		"pid":                  "12",
		"cmdline":              `insmod \x1b <&>`,
		"uid":                  "0",
		"unprivileged":         "0",
		"source":               "ebpf",
	}, rows[0])
	require.Equal(t, `{"time":12,"time_nanos":0,"eid":5,"stored_time":1700000000,"event_name":"init_module","source":"ebpf","load_id":"b",`+
		`"name":"dummy","origin":"memory","result":-17,"error":"EEXIST","pid":12,"process_name":"insmod",`+
		`"cmdline":"insmod \\x1b <&>","uid":0}`, event)
}

func TestAFindingShowsTheWholeEvent(t *testing.T) {
	event := full()
	event.Source, event.EventName, event.ReportsLoad = "ebpf", "init_module", new(int64(1))
	rows := rowsOf(t, testConfig(t, event), "kernel_module_findings", contextJSON(t, []string{"event"}))
	require.Len(t, rows, 1)
	require.Len(t, rows[0], 2)
	var got kmodquery.Event
	require.NoError(t, json.Unmarshal([]byte(rows[0]["event"]), &got))
	event.EID = 1
	event.FirstSeen, event.StoredTime = new(int64(1)), new(int64(storedTime)) // set by the store
	require.Equal(t, event, got)
}

func TestFindingsByConstraint(t *testing.T) {
	c := testConfig(t, loadedTwice()...)
	for name, test := range map[string]struct {
		constraint constraint
		want       []string
	}{
		"trigger is the event's name":   {constraint{"trigger", "init_module", 2}, []string{"5"}},
		"a trigger of no signature":     {constraint{"trigger", "delete_module", 2}, []string{}},
		"event_name is the detection's": {constraint{"event_name", "kernel_module_loading", 2}, []string{"5", "1"}},
		"time":                          {constraint{"time", "11", 4}, []string{"5"}},
		"path":                          {constraint{"path", "/DUMMY.KO", 2}, []string{"1"}},
		"left to osquery":               {constraint{"signature_name", "TRC-0", 2}, []string{"5", "1"}},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, test.want, column(rowsOf(t, c, "kernel_module_findings", contextJSON(t, []string{"eid"}, test.constraint)), "eid"))
		})
	}
}

func TestFindingsAreCountedWithoutCells(t *testing.T) {
	rows := rowsOf(t, testConfig(t, loadedTwice()...), "kernel_module_findings", contextJSON(t, []string{}))
	require.Equal(t, []map[string]string{{}, {}}, rows)
}

func TestEachSignatureHasFindingsOfItsOwn(t *testing.T) {
	c := testConfig(t, loadedTwice()...)
	deaf := kmodquery.Signature{Metadata: kmodquery.Metadata{ID: "DEAF"}, Events: []string{"delete_module"},
		Match: func(*kmodquery.Event) (string, bool) { return "an event that it does not list", true }}
	firmware := kmodquery.Signature{Metadata: kmodquery.Metadata{ID: "FW"}, Events: []string{"security_kernel_read_file"}, Columns: []string{"path"},
		Match: func(e *kmodquery.Event) (string, bool) { return "reads " + e.Path, true }}
	c.Signatures = append(c.Signatures, deaf, firmware)
	rows := rowsOf(t, c, "kernel_module_findings", contextJSON(t, []string{"signature_id", "reason"}))
	require.Equal(t, []string{"TRC-1017", "FW", "TRC-1017", "FW"}, column(rows, "signature_id"))
	require.Equal(t, "reads /fw.bin", rows[1]["reason"])
	rowids := column(rows, "rowid")
	require.Equal(t, []string{"15", "14", "3", "5"}, rowids, "one for each event and signature")
	again := rowsOf(t, c, "kernel_module_findings", contextJSON(t, []string{"time"}, constraint{"time", "12", 16}))
	require.Equal(t, rowids[1:], column(again, "rowid"), "the same in every query")
}

func TestWithoutSignaturesThereAreNoFindings(t *testing.T) {
	c := testConfig(t, loadedTwice()...)
	c.Signatures = nil
	require.Empty(t, rowsOf(t, c, "kernel_module_findings", "{}"))
}

// askedStore is a store that notes which names of events it was asked for.
type askedStore struct {
	Store
	names []string
}

func (s *askedStore) Events(ctx context.Context, f kmodquery.Filter, visit func(*kmodquery.Event) error) error {
	for _, condition := range f.Conditions {
		for _, value := range condition.Values {
			if name, ok := value.(string); ok && condition.Column == "event_name" {
				s.names = append(s.names, name)
			}
		}
	}
	return s.Store.Events(ctx, f, visit)
}

// twoSignatures returns signatures that accept every module_load and every init_module.
func twoSignatures() []kmodquery.Signature {
	of := func(id, number, event string, severity int64) kmodquery.Signature {
		return kmodquery.Signature{
			Metadata: kmodquery.Metadata{ID: id, ExternalID: number, Severity: severity},
			Events:   []string{event}, Columns: []string{"event_name", "name", "path", "result"}, Facts: []string{"name", "path", "result"},
			Match: func(e *kmodquery.Event) (string, bool) { return id, e.EventName == event },
		}
	}
	return []kmodquery.Signature{of("KMQ-1", "T1", "module_load", 1), of("KMQ-2", "T2", "init_module", 3)}
}

func TestFindingsHaveTheFactsOfTheirSignature(t *testing.T) {
	c := testConfig(t, loadedTwice()...)
	c.Signatures = append(twoSignatures(), trc1017(t))
	data := map[string][]string{}
	for _, row := range rowsOf(t, c, "kernel_module_findings", "{}") {
		data[row["signature_id"]] = append(data[row["signature_id"]], row["data"])
	}
	require.Equal(t, map[string][]string{
		"KMQ-1": {`{"name":"dummy"}`}, "KMQ-2": {`{"name":"dummy","result":-17}`}, "TRC-1017": {"", ""},
	}, data)
}

func TestConstraintsOnSignaturesSelectTheEventsThatAreRead(t *testing.T) {
	for _, test := range []struct {
		constraints []constraint
		want        []string
		asked       []string // names of events
	}{
		{nil, []string{"KMQ-1", "KMQ-2"}, []string{"module_load", "init_module"}},
		{[]constraint{{"signature_id", "KMQ-2", 2}}, []string{"KMQ-2"}, []string{"init_module"}},
		{[]constraint{{"signature_id", "kmq-2 ", 2}}, []string{"KMQ-2"}, []string{"init_module"}},
		{[]constraint{{"signature_id", "KMQ-2", 2}, {"signature_id", "KMQ-1", 2}}, []string{"KMQ-1", "KMQ-2"}, []string{"module_load", "init_module"}},
		{[]constraint{{"signature_id", "KMQ-3", 2}}, nil, nil},
		{[]constraint{{"signature_id", "KMQ-2", 2}, {"severity", "1", 2}}, nil, nil},
		{[]constraint{{"external_id", "T1", 2}}, []string{"KMQ-1"}, []string{"module_load"}},
		{[]constraint{{"severity", "3", 2}}, []string{"KMQ-2"}, []string{"init_module"}},
		{[]constraint{{"severity", "1", 4}}, []string{"KMQ-2"}, []string{"init_module"}},                            // >
		{[]constraint{{"severity", "1.0", 32}}, []string{"KMQ-1", "KMQ-2"}, []string{"module_load", "init_module"}}, // >=
		{[]constraint{{"severity", "3", 16}}, []string{"KMQ-1"}, []string{"module_load"}},                           // <
		{[]constraint{{"severity", "1", 8}}, []string{"KMQ-1"}, []string{"module_load"}},                            // <=
		{[]constraint{{"severity", "high", 2}}, []string{"KMQ-1", "KMQ-2"}, []string{"module_load", "init_module"}},
		{[]constraint{{"signature_id", "KMQ-%", 65}}, []string{"KMQ-1", "KMQ-2"}, []string{"module_load", "init_module"}}, // LIKE
	} {
		c := testConfig(t, loadedTwice()...)
		c.Signatures = twoSignatures()
		reads := &askedStore{Store: c.Store}
		c.Store = reads
		rows := rowsOf(t, c, "kernel_module_findings", contextJSON(t, nil, test.constraints...))
		require.ElementsMatch(t, test.want, column(rows, "signature_id"), "%v", test.constraints)
		require.ElementsMatch(t, test.asked, reads.names, "%v", test.constraints)
	}
}

// A reportsStore is a store that notes of which events it was asked for the reports only, and
// reads all of them if it is set to.
type reportsStore struct {
	Store
	readsAll bool
	reports  []string
}

func (s *reportsStore) Events(ctx context.Context, f kmodquery.Filter, visit func(*kmodquery.Event) error) error {
	if s.reports = f.Reports; s.readsAll {
		f.Reports = nil
	}
	return s.Store.Events(ctx, f, visit)
}

func TestOnlyReportsAreReadWhereNoWantedSignatureTakesMore(t *testing.T) {
	var events []kmodquery.Event
	for _, reports := range []*int64{nil, new(int64(0)), new(int64(1))} {
		for _, e := range append(loadedTwice(), kmodquery.Event{Source: "procfs", EventName: "module_unwitnessed", Name: "x"}) {
			e.ReportsLoad = reports
			events = append(events, e)
		}
	}
	c := testConfig(t, events...)
	c.Signatures = append(twoSignatures(), trc1017(t))
	all := kmodquery.LoadReportEvents()
	other := slices.DeleteFunc(slices.Clone(all), func(name string) bool { return name == "module_load" || name == "init_module" })
	for _, test := range []struct {
		constraints []constraint
		reports     []string
	}{
		{nil, other},
		{[]constraint{{"signature_id", "TRC-1017", 2}}, all},
		{[]constraint{{"signature_id", "KMQ-1", 2}}, nil},
		{[]constraint{{"severity", "2", 32}}, slices.DeleteFunc(slices.Clone(all), func(name string) bool { return name == "init_module" })},
	} {
		for _, used := range [][]string{nil, {}, {"eid", "signature_id"}} {
			reads := &reportsStore{Store: c.Store}
			c.Store = reads
			rows := rowsOf(t, c, "kernel_module_findings", contextJSON(t, used, test.constraints...))
			require.Equal(t, test.reports, reads.reports, "%v", test.constraints)
			require.NotEmpty(t, rows)
			reads.readsAll = true
			require.Equal(t, rowsOf(t, c, "kernel_module_findings", contextJSON(t, used, test.constraints...)), rows)
			c.Store = reads.Store
		}
	}
}

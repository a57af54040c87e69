package tables

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/test/hostile"
)

// hostileEvents returns one finding for each hostile text, with the text in every column
// that the host controls.
func hostileEvents(t *testing.T) (events []kmodquery.Event, texts []string) {
	t.Helper()
	texts = append(hostile.Texts(), "a\x00b", "\x00", strings.Repeat("\x9b", 5000))
	for _, text := range texts {
		e := full()
		for _, column := range kmodquery.EventColumns() {
			switch pointer := column.Pointer(&e).(type) {
			case *string:
				*pointer = text
			case **string:
				*pointer = &text
			}
		}
		e.EventName, e.Source, e.Type = kmodquery.EventInitModule, kmodquery.SourceEBPF, kmodquery.TypeKernelModule
		e.ReportsLoad = new(int64(1))
		e.Ancestors = jsonOf(t, []map[string]string{{"comm": kmodquery.Escape(text)}})
		e.RequestedBy = jsonOf(t, map[string]string{"cmdline": kmodquery.Escape(text)})
		events = append(events, e)
	}
	return events, texts
}

func requireHarmless(t *testing.T, rows []map[string]string) {
	t.Helper()
	for _, row := range rows {
		for key, value := range row {
			require.Empty(t, hostile.Harm(value), key)
		}
	}
}

func TestEventsEscapeHostileText(t *testing.T) {
	events, texts := hostileEvents(t)
	c := testConfig(t, events...)
	rows := rowsOf(t, c, "kernel_module_events", "{}")
	require.Len(t, rows, len(texts))
	requireHarmless(t, rows)
	for i, text := range texts {
		row := rows[len(rows)-1-i]
		for _, column := range []string{"name", "path", "cmdline", "cwd", "params", "process_name", "raw", "signer", "container_id", "reason"} {
			require.Equal(t, text, hostile.Unescape(row[column]), column)
		}
		var ancestors []struct{ Comm string }
		require.NoError(t, json.Unmarshal([]byte(row["ancestors"]), &ancestors))
		require.Equal(t, text, hostile.Unescape(ancestors[0].Comm))
		var requester struct{ Cmdline string }
		require.NoError(t, json.Unmarshal([]byte(row["requested_by"]), &requester))
		require.Equal(t, text, hostile.Unescape(requester.Cmdline))
	}
}

func TestFindingsEscapeHostileText(t *testing.T) {
	events, texts := hostileEvents(t)
	c := testConfig(t, events...)
	rows := rowsOf(t, c, "kernel_module_findings", "{}")
	require.Len(t, rows, len(texts))
	requireHarmless(t, rows)
	for i, text := range texts {
		row := rows[len(rows)-1-i]
		var event map[string]any
		require.NoError(t, json.Unmarshal([]byte(row["event"]), &event))
		require.Equal(t, text, hostile.Unescape(event["cmdline"].(string)))
		var ancestors []struct{ Comm string }
		require.NoError(t, json.Unmarshal([]byte(event["ancestors"].(string)), &ancestors))
		require.Equal(t, text, hostile.Unescape(ancestors[0].Comm))
	}
}

// A query for the text of a cell, or for the bytes that the host wrote, loses no row.
func TestFiltersOfHostileTextLoseNoRow(t *testing.T) {
	events, texts := hostileEvents(t)
	c := testConfig(t, events...)
	all := rowsOf(t, c, "kernel_module_events", "{}")
	for i, text := range texts {
		want := all[len(all)-1-i]
		for _, name := range []string{"cmdline", "ancestors"} {
			for _, op := range []int{2, 65, 66, 68, 72} {
				rows := rowsOf(t, c, "kernel_module_events", contextJSON(t, []string{"eid"}, constraint{name, want[name], op}))
				require.Contains(t, column(rows, "eid"), want["eid"], "%s %q", name, text)
			}
		}
		// osquery passes a query on as it was typed, which may be invalid UTF-8.
		sent := withoutControls(text)
		raw := `{"constraints":[{"name":"cmdline","list":[{"op":2,"expr":"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(sent) + `"}]}],"colsUsed":["eid"]}`
		if rows := rowsOf(t, c, "kernel_module_events", raw); !plain(sent) {
			require.Len(t, rows, len(all), "%q: nothing is filtered by what may be shown otherwise", text)
		}
	}
}

// withoutControls omits the characters that JSON requires to be escaped.
func withoutControls(text string) string {
	return string(slices.DeleteFunc([]byte(text), func(b byte) bool { return b < ' ' }))
}

func TestInventoryEscapesHostileText(t *testing.T) {
	var modules []kmodquery.Module
	texts := hostile.Texts()
	for _, text := range texts {
		modules = append(modules, kmodquery.Module{Name: text, UsedBy: []string{text, text}, State: text, Version: text, Srcversion: text,
			LoadID: text, Views: []string{kmodquery.ViewModules, text}})
	}
	c, _ := inventoryConfig(t, modules)
	rows := rowsOf(t, c, inventoryTable, "{}")
	requireHarmless(t, rows)
	for i, text := range texts {
		require.Equal(t, text, hostile.Unescape(rows[i]["name"]))
		var users []string
		require.NoError(t, json.Unmarshal([]byte(rows[i]["used_by"]), &users))
		require.Equal(t, text, hostile.Unescape(users[1]))
		asked := rowsOf(t, c, inventoryTable, contextJSON(t, []string{"name"}, constraint{"name", rows[i]["name"], 2}))
		require.Contains(t, column(asked, "name"), rows[i]["name"])
	}
	rows = rowsOf(t, c, inventoryTable, contextJSON(t, []string{"name"}, constraint{"name", "NULL ", 2}))
	require.Equal(t, []string{"null"}, column(rows, "name"), "it may be asked without regard to case and to blanks at the end")
}

func TestSensorsEscapeHostileText(t *testing.T) {
	c := testConfig(t)
	var sensors []kmodquery.Sensor
	for _, text := range hostile.Texts() {
		sensors = append(sensors, kmodquery.Sensor{Source: text, Reason: text, Hooks: jsonOf(t, []string{kmodquery.Printable(text)})})
	}
	sensors = append(sensors, kmodquery.Sensor{Reason: `module "\x1b" came`})
	c.Recorder = &recorder{sensors: sensors}
	rows := rowsOf(t, c, "kernel_module_sensors", contextJSON(t, []string{"source", "reason", "hooks"}))
	requireHarmless(t, rows)
	require.Equal(t, `module "\x1b" came`, rows[len(rows)-1]["reason"], "it was quoted before")
}

func TestErrorsEscapeHostileText(t *testing.T) {
	for _, text := range hostile.Texts() {
		require.Empty(t, hostile.Harm(errorOf(t, Config{Store: openStore(t), Recorder: &recorder{err: textError(text)}}, "kernel_module_events", "{}")))
		if message := call(t, testConfig(t), "kernel_module_events", text).Status.Message; message != "OK" {
			require.Empty(t, hostile.Harm(message))
		}
	}
}

type textError string

func (e textError) Error() string { return string(e) }

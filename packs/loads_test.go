package packs_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

// Loads and refused loads are shipped by one query each, under osquery, where missing text
// is empty, and in the shell, where it is NULL.
func TestEachLoadIsInOneQuery(t *testing.T) {
	const loaded, attempts = "kernel_module_loaded", "kernel_module_attempts"
	of := func(eventName, source string, result *int64, missing ...string) kmodquery.Event {
		e := kmodquery.Event{EventName: eventName, Source: source, Result: result}
		e.Missing.Add(missing...)
		return e
	}
	refused, succeeded := new(int64(-22)), new(int64(0))
	tests := map[string]struct {
		event kmodquery.Event
		want  string // "" for neither
	}{
		"before the init":                  {of(kmodquery.EventModuleLoad, kmodquery.SourceEBPF, nil), loaded},
		"before the init, with gaps":       {of(kmodquery.EventModuleLoad, kmodquery.SourceEBPF, nil, "params", "sha256"), loaded},
		"seen by a view":                   {of(kmodquery.EventModuleLoad, kmodquery.SourceProcfs, nil), loaded},
		"taint logged":                     {of(kmodquery.EventModuleLoad, kmodquery.SourceKmsg, nil, "path", "sha256"), loaded},
		"success logged":                   {of(kmodquery.EventModuleLoad, kmodquery.SourceJournal, succeeded), loaded},
		"refusal logged with its error":    {of(kmodquery.EventModuleLoad, kmodquery.SourceKmsg, refused, "path"), attempts},
		"refusal logged without an error":  {of(kmodquery.EventModuleLoad, kmodquery.SourceJournal, nil, "result", "error", "path"), attempts},
		"refusal whose columns end in it":  {of(kmodquery.EventModuleLoad, kmodquery.SourceSyslog, nil, "name", "error", "result"), attempts},
		"later refusal with its error":     {of(kmodquery.EventSysExitInitModule, kmodquery.SourceKmsg, refused), attempts},
		"later refusal without an error":   {of(kmodquery.EventSysExitInitModule, kmodquery.SourceSyslog, nil, "result", "error"), attempts},
		"later line about a load":          {of(kmodquery.EventSysExitInitModule, kmodquery.SourceKmsg, nil), ""},
		"late return with an error":        {of(kmodquery.EventSysExitInitModule, kmodquery.SourceEBPF, refused), attempts},
		"late return":                      {of(kmodquery.EventSysExitInitModule, kmodquery.SourceEBPF, succeeded), ""},
		"call with an error":               {of(kmodquery.EventFinitModule, kmodquery.SourceEBPF, refused), attempts},
		"call that succeeded":              {of(kmodquery.EventInitModule, kmodquery.SourceEBPF, succeeded), ""},
		"call that has not returned":       {of(kmodquery.EventInitModule, kmodquery.SourceEBPF, nil, "result"), ""},
		"call that audit observed":         {of(kmodquery.EventFinitModule, kmodquery.SourceAudit, succeeded), attempts},
		"call without result, from audit":  {of(kmodquery.EventInitModule, kmodquery.SourceAudit, nil, "result"), attempts},
		"unload":                           {of(kmodquery.EventDeleteModule, kmodquery.SourceEBPF, refused), ""},
		"extension requested on macOS":     {of(kmodquery.EventKextload, kmodquery.SourceEndpointSecurity, nil, "result"), ""},
		"module loaded before the process": {of(kmodquery.EventModulePresent, kmodquery.SourceProcfs, nil), ""},
	}
	host := start(t, t.TempDir())
	e := newExtension(t)
	defer e.serve(t, host)()
	require.NoError(t, host.Tick(t.Context(), noon))
	pack := readPack(t)
	host.Schedule(t.Context(), pack)
	want := map[string][]string{}
	for name, test := range tests {
		test.event.Time, test.event.Name = noon.Unix(), name
		e.append(t, test.event)
		want[test.want] = append(want[test.want], "added "+name)
	}
	require.NoError(t, e.advance(t, host, 5*time.Minute))
	shell := openShell(t, host, e)
	for _, query := range []string{loaded, attempts} {
		require.ElementsMatch(t, want[query], lines(t, host, query, "name"), query)
		var inShell []string
		for _, row := range rowsIn(t, shell, strings.ReplaceAll(pack.Queries[query].Query, "'"+query+"'", "'shell_"+query+"'")) {
			inShell = append(inShell, "added "+row["name"])
		}
		require.ElementsMatch(t, want[query], inShell, "%s in the shell", query)
	}
}

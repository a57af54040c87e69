package osqueryhost

import (
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTextIsPrintedAsOsqueryPrintsIt(t *testing.T) {
	for _, test := range []struct {
		value any
		want  string
	}{
		{nil, ""},
		{int64(-7), "-7"},
		{"plain", "plain"},
		{"cut\x00here", "cut"},
		{[]byte("cut\x00here"), "cut"},
		{1.0, "1.0"},
		{-0.5, "-0.5"},
		{math.Nextafter(0.3, 1), "0.3"},
		{123456789012345.0, "123456789012345.0"},
		{1e15, "1e+15.0"},
		{1e300, "1e+300.0"},
		{1.5e300, "1.5e+300"},
		{1e-5, "1e-05.0"},
		{math.Inf(1), "inf.0"},
		{math.Inf(-1), "-inf.0"},
		{math.Copysign(0, -1), "-0.0"},
	} {
		require.Equal(t, test.want, text(cellValue(test.value)), "%v", test.value)
	}
}

func TestRowsAreWrittenAsRapidjsonWritesThem(t *testing.T) {
	third := math.Nextafter(0.3, 1)
	for name, test := range map[string]struct {
		row      row
		numerics string
		strings  string
	}{
		"columns by name": {row{"b": int64(2), "a": "1"}, `{"a":"1","b":2}`, `{"a":"1","b":"2"}`},
		"null":            {row{"a": ""}, `{"a":""}`, `{"a":""}`},
		"doubles":         {row{"a": 1.0, "b": third, "c": 1e300}, `{"a":1.0,"b":0.30000000000000004,"c":1e300}`, `{"a":"1.0","b":"0.3","c":"1e+300.0"}`},
		"range":           {row{"a": 1e20, "b": 1e21, "c": 1e-6, "d": -1.5e-7}, `{"a":100000000000000000000.0,"b":1e21,"c":0.000001,"d":-1.5e-7}`, `{"a":"1e+20.0","b":"1e+21.0","c":"1e-06.0","d":"-1.5e-07"}`},
		"zero":            {row{"a": 0.0, "b": math.Copysign(0, -1)}, `{"a":0.0,"b":-0.0}`, `{"a":"0.0","b":"-0.0"}`},
		"escapes":         {row{"\"": "<&>/\\\t\x1f\x7f\u2028\xff"}, "{\"\\\"\":\"<&>/\\\\\\t\\u001F\x7f\u2028\xff\"}", "{\"\\\"\":\"<&>/\\\\\\t\\u001F\x7f\u2028\xff\"}"},
		"infinite":        {row{"a": math.Inf(1), "b": "x"}, `{"a":`, `{"a":"inf.0","b":"x"}`},
	} {
		t.Run(name, func(t *testing.T) {
			var numerics, strings jsonWriter
			numerics.row(test.row, true)
			strings.row(test.row, false)
			require.Equal(t, test.numerics, string(numerics.b))
			require.Equal(t, test.strings, string(strings.b))
		})
	}
}

func TestStateKeepsTypes(t *testing.T) {
	rows := []row{{"a": int64(math.MinInt64), "b": 1.0, "c": 1e300, "d": "1.0", "e": ""}}
	content, whole := queryState{epoch: 3, counter: 4, rows: rows}.encode()
	require.True(t, whole)
	query, err := decodeQuery(content)
	require.NoError(t, err)
	require.Equal(t, queryState{epoch: 3, counter: 4, rows: rows}, query)
}

func TestStatements(t *testing.T) {
	for sql, want := range map[string][]string{
		"":                            nil,
		"SELECT 1":                    {"SELECT 1"},
		"SELECT 1; SELECT 2;":         {"SELECT 1", " SELECT 2"},
		"SELECT 1;;":                  {"SELECT 1", ""},
		"SELECT ';', \";\", `;`, [;]": {"SELECT ';', \";\", `;`, [;]"},
		"SELECT 'it''s;'; SELECT 2":   {"SELECT 'it''s;'", " SELECT 2"},
		"SELECT 1 -- ; '\n; SELECT 2": {"SELECT 1 -- ; '\n", " SELECT 2"},
		"SELECT /* ; ' */ 1; SELECT":  {"SELECT /* ; ' */ 1", " SELECT"},
		"SELECT 'open; SELECT 2":      {"SELECT 'open; SELECT 2"},
	} {
		require.Equal(t, want, statements(sql), sql)
	}
	for statement, want := range map[string]bool{"": true, " \n": true, "-- x": true, "/* x */ -- y\n": true, "/* x */ 1": false, "-": false} {
		require.Equal(t, want, isEmpty(statement), statement)
	}
}

func TestFlags(t *testing.T) {
	for name, test := range map[string]struct {
		given map[string]string
		flag  string
		want  string
		err   string
	}{
		"default":         {nil, "logger_event_type", "true", ""},
		"own default":     {nil, "disable_watchdog", "true", ""},
		"given":           {map[string]string{"logger_numerics": "1"}, "logger_numerics", "true", ""},
		"alias":           {map[string]string{"log_numerics_as_numbers": "true"}, "logger_numerics", "true", ""},
		"unknown":         {map[string]string{"no_such": "true"}, "", "", "unknown flag no_such"},
		"no truth":        {map[string]string{"logger_numerics": "maybe"}, "", "", "flag logger_numerics"},
		"negative":        {map[string]string{"watchdog_memory_limit": "-1"}, "", "", "flag watchdog_memory_limit"},
		"unknown logger":  {map[string]string{"logger_plugin": "kinesis"}, "", "", "logger plugin kinesis is not modelled"},
		"negative number": {map[string]string{"watchdog_level": "-1"}, "watchdog_level", "-1", ""},
	} {
		t.Run(name, func(t *testing.T) {
			set, err := parseFlags(test.given)
			if test.err != "" {
				require.ErrorContains(t, err, test.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, test.want, set[test.flag])
		})
	}
}

func TestMemoryLimit(t *testing.T) {
	for _, test := range []struct {
		given map[string]string
		want  int64
	}{
		{nil, 0},
		{map[string]string{"disable_watchdog": "false"}, 200},
		{map[string]string{"disable_watchdog": "false", "watchdog_level": "1"}, 100},
		{map[string]string{"disable_watchdog": "false", "watchdog_level": "-1"}, 10000},
		{map[string]string{"disable_watchdog": "false", "watchdog_level": "1", "watchdog_memory_limit": "350"}, 350},
	} {
		set, err := parseFlags(test.given)
		require.NoError(t, err)
		require.Equal(t, test.want, set.memoryLimit(), test.given)
	}
}

// The watcher doubles the delay with each quick restart, up to its maximum, and gives up
// after the fourth.
func TestRespawnBackOff(t *testing.T) {
	h := &Host{clock: &clock{}}
	s := &h.supervision
	s.worker = newWorker(h)
	var delays []float64
	for range respawnLimit {
		s.bury(errNoWorker, s.spawned, 20)
		require.NoError(t, s.ended)
		delays = append(delays, s.due.Sub(s.spawned).Seconds())
	}
	require.Equal(t, []float64{7, 9, 13, 20}, delays)
	s.bury(errNoWorker, s.spawned.Add(time.Hour), 20)
	require.ErrorContains(t, s.ended, "Too many worker restarts")

	s = &supervision{worker: newWorker(h)}
	s.bury(errNoWorker, s.spawned.Add(respawnLimit*time.Second), 20)
	require.Equal(t, s.spawned.Add(respawnLimit*time.Second), s.due, "an old worker is replaced at once")
}

func TestProcessesAndUsers(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	}
	write("12/status", "Name:\tmod probe\nState:\tS (sleeping)\nPPid:\t1\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\n")
	write("12/cmdline", "modprobe\x00-v\x00")
	write("self/status", "Name:\tnot a number\n")
	require.Equal(t, []map[string]string{{
		"pid": "12", "name": "mod probe", "state": "S", "parent": "1", "uid": "1", "euid": "2", "gid": "5", "egid": "6", "path": "", "cmdline": "modprobe -v",
	}}, processRows(dir))
	require.Empty(t, processRows(dir+"/missing"))

	write("passwd", "root:x:0:0:root:/root:/bin/sh\nbroken\nnobody:x:4294967294:7::/:\n")
	require.Equal(t, []map[string]string{
		{"username": "root", "uid": "0", "gid": "0", "uid_signed": "0", "gid_signed": "0", "description": "root", "directory": "/root", "shell": "/bin/sh"},
		{"username": "nobody", "uid": "4294967294", "gid": "7", "uid_signed": "-2", "gid_signed": "7", "description": "", "directory": "/", "shell": ""},
	}, userRows(dir+"/passwd"))
	require.Empty(t, userRows(dir+"/missing"))
}

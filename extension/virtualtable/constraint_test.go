package virtualtable

import (
	"testing"

	"github.com/stretchr/testify/require"
	"modernc.org/sqlite/vtab"
)

func newEvents() *recorder {
	return &recorder{
		name: "events",
		routes: []map[string]string{
			route("time", "BIGINT", "1"),
			route("name", "TEXT", "1"),
			route("size", "BIGINT", "4"),
			route("kind", "INTEGER", "9"),
			route("signer", "TEXT", "8"),
			route("score", "DOUBLE", "1"),
			route("raw", "TEXT", "16"),
			route("secret", "TEXT", "17"),
			route("plain", "TEXT", "0"),
			{"id": "attributes", "attributes": "0"},
		},
		rows: always(
			map[string]string{"time": "10", "name": "dummy", "size": "1", "kind": "2", "plain": "p", "raw": "r"},
			map[string]string{"time": "20", "name": "loop", "size": "2", "kind": "3", "plain": "q", "raw": "s"},
		),
	}
}

func TestConstraintsReachPlugin(t *testing.T) {
	type asked = map[string][]constraint
	tests := []struct {
		sql  string
		want []asked
	}{
		{"SELECT name FROM events", []asked{{}}},
		{"SELECT name FROM events WHERE time = 10", []asked{{"time": {{2, "10"}}}}},
		{"SELECT name FROM events WHERE time > 10", []asked{{"time": {{4, "10"}}}}},
		{"SELECT name FROM events WHERE time <= 10", []asked{{"time": {{8, "10"}}}}},
		{"SELECT name FROM events WHERE time < 10", []asked{{"time": {{16, "10"}}}}},
		{"SELECT name FROM events WHERE time >= 10", []asked{{"time": {{32, "10"}}}}},
		{"SELECT name FROM events WHERE time BETWEEN 10 AND 20", []asked{{"time": {{32, "10"}, {8, "20"}}}}},
		{"SELECT name FROM events WHERE time = '10'", []asked{{"time": {{2, "10"}}}}},
		{"SELECT name FROM events WHERE time < 1e9", []asked{{"time": {{16, "1000000000.0"}}}}},
		{"SELECT name FROM events WHERE time < 18446744073709551615", []asked{{"time": {{16, "1.84467440737096e+19"}}}}},
		{"SELECT name FROM events WHERE name = 'dummy' AND time > 1", []asked{{"name": {{2, "dummy"}}, "time": {{4, "1"}}}}},
		{"SELECT name FROM events WHERE name = 'DUMMY' COLLATE NOCASE", []asked{{"name": {{2, "DUMMY"}}}}},
		{"SELECT name FROM events WHERE name LIKE 'd%'", []asked{{"name": {{65, "d%"}}}}},
		{"SELECT name FROM events WHERE name GLOB 'd*'", []asked{{"name": {{66, "d*"}}}}},
		{"SELECT name FROM events WHERE name != 'dummy'", []asked{{"name": {{68, "dummy"}}}}},
		{"SELECT name FROM events WHERE name IS 'dummy'", []asked{{"name": {{72, "dummy"}}}}},
		{"SELECT name FROM events WHERE time LIKE '1%'", []asked{{"time": {{65, "1%"}}}}},

		// SQLite alone compares text by order.
		{"SELECT name FROM events WHERE name > 'a'", []asked{{}}},
		{"SELECT name FROM events WHERE name BETWEEN 'a' AND 'e'", []asked{{}}},
		// SQLite alone checks constraints that a plugin cannot use.
		{"SELECT name FROM events WHERE name IS NULL", []asked{{}}},
		{"SELECT name FROM events WHERE name IS NOT NULL", []asked{{}}},
		{"SELECT name FROM events WHERE name = ''", []asked{{}}},
		{"SELECT name FROM events WHERE name NOT IN ('a', 'b')", []asked{{}}},
		{"SELECT name FROM events WHERE lower(name) = 'dummy'", []asked{{}}},
		{"SELECT name FROM events WHERE time + 1 = 11", []asked{{}}},

		{"SELECT name FROM events WHERE time IN (10, 20)", []asked{{"time": {{2, "10"}}}, {"time": {{2, "20"}}}}},
		{"SELECT name FROM events WHERE time = 10 OR time = 20", []asked{{"time": {{2, "10"}}}, {"time": {{2, "20"}}}}},
		{"SELECT name FROM events WHERE kind IN (2, 3)", []asked{{"kind": {{2, "2"}}}, {"kind": {{2, "3"}}}}},

		// Options: additional and hidden with index are passed, optimized or
		// hidden alone are not, and none at all means index.
		{"SELECT name FROM events WHERE size = 1", []asked{{"size": {{2, "1"}}}}},
		{"SELECT name FROM events WHERE secret = 'x'", []asked{{"secret": {{2, "x"}}}}},
		{"SELECT name FROM events WHERE signer = 'x'", []asked{{}}},
		{"SELECT name FROM events WHERE raw = 'r'", []asked{{}}},
		{"SELECT name FROM events WHERE plain = 'p'", []asked{{"plain": {{2, "p"}}}}},

		// LIMIT and OFFSET are constraints on the first column.
		{"SELECT name FROM events LIMIT 1", []asked{{"time": {{73, "1"}}}}},
		{"SELECT name FROM events LIMIT 1 OFFSET 1", []asked{{"time": {{74, "1"}, {73, "1"}}}}},
	}
	for _, test := range tests {
		t.Run(test.sql, func(t *testing.T) {
			events := newEvents()
			db := open(t, events)
			query(t, db, test.sql)
			require.Equal(t, test.want, events.asked())
		})
	}
}

func TestRowsAreFilteredAgain(t *testing.T) {
	db := open(t, newEvents())
	require.Equal(t, [][]any{{"loop"}}, query(t, db, "SELECT name FROM events WHERE time = 20"))
	require.Equal(t, [][]any{{"dummy"}}, query(t, db, "SELECT name FROM events WHERE name = 'DUMMY' COLLATE NOCASE"))
	require.Equal(t, [][]any{{"loop"}}, query(t, db, "SELECT name FROM events ORDER BY time DESC LIMIT 1"))
	require.Equal(t, [][]any{{"loop"}}, query(t, db, "SELECT name FROM events LIMIT 1 OFFSET 1"))
	require.Equal(t, [][]any{{"dummy"}}, query(t, db, "SELECT name FROM events WHERE time = ?", 10))
	require.Empty(t, query(t, db, "SELECT name FROM events WHERE time = NULL"))
}

func TestContextJSON(t *testing.T) {
	columns := []column{{name: "name", kind: typeText}, {name: "id", kind: typeUnsignedBigint}}
	p := plan{Terms: []term{{Column: 0, Op: 65}}, Used: 1}
	request, err := generateRequest(columns, p, []vtab.Value{"a<b\x00c"})
	require.NoError(t, err)
	require.Equal(t, "generate", request["action"])
	require.Equal(t, `{"constraints":[`+
		`{"name":"id","list":[],"affinity":"UNSIGNED BIGINT"},`+
		`{"name":"name","list":[{"op":65,"expr":"a\u003cb"}],"affinity":"TEXT"}],`+
		`"colsUsed":["name"],"colsUsedBitset":1}`, request["context"])
}

func TestRealText(t *testing.T) {
	tests := map[float64]string{
		0:                    "0.0",
		1:                    "1.0",
		-2.5:                 "-2.5",
		100:                  "100.0",
		0.1 + 0.2:            "0.3",
		1e14:                 "100000000000000.0",
		1e15:                 "1.0e+15",
		1234567890123456789:  "1.23456789012346e+18",
		0.0001:               "0.0001",
		0.00001:              "1.0e-05",
		1.5e300:              "1.5e+300",
		18446744073709551615: "1.84467440737096e+19",
	}
	for v, want := range tests {
		require.Equal(t, want, realText(v))
	}
}

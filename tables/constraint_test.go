package tables

import (
	"database/sql"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

func TestQueriesAreParsed(t *testing.T) {
	all := []string(nil)
	type list = constraintList
	for name, test := range map[string]struct {
		context string
		used    []string
		lists   map[string]list
	}{
		"no context":   {``, all, nil},
		"no object":    {`null`, all, nil},
		"nothing used": {`{"colsUsed":[]}`, []string{}, nil},
		"used":         {`{"colsUsed":["name","pid"],"colsUsedBitset":514}`, []string{"name", "pid"}, nil},
		"as osquery 5": {`{"constraints":[{"name":"pid","list":[{"op":2,"expr":"1"},{"op":16,"expr":"9"}],"affinity":"BIGINT"},{"name":"name","list":[],"affinity":"TEXT"}]}`,
			all, map[string]list{"pid": {{Operator: 2, Expression: "1"}, {Operator: 16, Expression: "9"}}, "name": nil}},
		"as osquery 2": {`{"constraints":[{"name":"pid","list":[{"op":"2","expr":"1"}]},{"name":"name","list":""}]}`,
			all, map[string]list{"pid": {{Operator: 2, Expression: "1"}}, "name": nil}},
		"not as osquery": {`{"constraints":[{"name":"pid","list":[{"op":2,"expr":1},{"op":"x","expr":"1"},{"op":2.5,"expr":"1"},{},7]}]}`,
			all, map[string]list{"pid": {
				{Operator: unreadable}, {Operator: unreadable}, {Operator: unreadable}, {Operator: unreadable}, {Operator: unreadable}}}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseQuery(test.context)
			require.NoError(t, err)
			require.Equal(t, test.used, got.ColsUsed)
			require.Len(t, got.Constraints, len(test.lists))
			for _, constraints := range got.Constraints {
				require.Equal(t, test.lists[constraints.Name], constraints.List)
			}
		})
	}
	for _, context := range []string{"{", "[]", `"x"`, `{"constraints":7}`, `{"colsUsed":"name"}`} {
		_, err := parseQuery(context)
		require.Error(t, err, context)
	}
}

func TestConstraintsBecomeConditions(t *testing.T) {
	condition := func(column string, op kmodquery.Op, values ...any) []kmodquery.Condition {
		return []kmodquery.Condition{{Column: column, Op: op, Values: values}}
	}
	is := func(column string, op int, expr string) []constraint { return []constraint{{column, expr, op}} }
	for name, test := range map[string]struct {
		constraints []constraint
		want        []kmodquery.Condition
	}{
		"equal":            {is("pid", 2, "7"), condition("pid", kmodquery.Equal, int64(7))},
		"greater":          {is("pid", 4, "7"), condition("pid", kmodquery.Greater, int64(7))},
		"less or equal":    {is("pid", 8, "7"), condition("pid", kmodquery.LessOrEqual, int64(7))},
		"less":             {is("pid", 16, "-7"), condition("pid", kmodquery.Less, int64(-7))},
		"greater or equal": {is("pid", 32, "7"), condition("pid", kmodquery.GreaterOrEqual, int64(7))},
		"text":             {is("name", 2, "Dummy"), condition("name", kmodquery.Equal, "Dummy")},
		"empty text":       {is("name", 2, ""), nil}, // osquery shows missing text as ""
		"blanks":           {is("name", 2, "  "), nil},
		"two columns": {[]constraint{{"name", "x", 2}, {"pid", "7", 2}},
			append(condition("name", kmodquery.Equal, "x"), condition("pid", kmodquery.Equal, int64(7))...)},
		"a window": {[]constraint{{"time", "1", 4}, {"time", "9", 16}},
			append(condition("time", kmodquery.Greater, int64(1)), condition("time", kmodquery.Less, int64(9))...)},
		"several equals are alternatives":     {[]constraint{{"pid", "7", 2}, {"pid", "8", 2}}, condition("pid", kmodquery.Equal, int64(7), int64(8))},
		"an alternative that cannot be asked": {[]constraint{{"pid", "7", 2}, {"pid", "x", 2}, {"pid", "9", 2}}, nil},
		"the same with text":                  {[]constraint{{"name", "a", 2}, {"name", "é", 2}}, nil},
		"its bounds stay":                     {[]constraint{{"pid", "x", 2}, {"pid", "3", 4}}, condition("pid", kmodquery.Greater, int64(3))},

		"a float that is whole":      {is("time", 2, "1000000000.0"), condition("time", kmodquery.Equal, 1e9)},
		"a float with exponent":      {is("time", 2, "1e9"), condition("time", kmodquery.Equal, 1e9)},
		"a float beyond 15 digits":   {is("time", 2, "1.84467440737096e+19"), nil},
		"the same negative":          {is("time", 2, "-1.84467440737096e+19"), nil},
		"a float as bound below":     {is("time", 4, "1000000000.0"), condition("time", kmodquery.Greater, 999999999.99999)},
		"a float as bound above":     {is("time", 8, "1000000000.0"), condition("time", kmodquery.LessOrEqual, 1000000000.00001)},
		"a negative float as bound":  {is("time", 32, "-1000000000.0"), condition("time", kmodquery.GreaterOrEqual, -1000000000.00001)},
		"number with words":          {is("pid", 2, " 12abc"), nil},
		"number in blanks":           {is("pid", 2, " 12"), nil},
		"hexadecimal":                {is("pid", 16, "0x10"), nil},
		"Go's hexadecimal float":     {is("pid", 16, "0x1p4"), nil},
		"Go's infinity":              {is("pid", 16, "inf"), nil},
		"Go's underscores":           {is("pid", 16, "1_000"), nil},
		"infinite":                   {is("pid", 16, "1e999"), nil},
		"empty number":               {is("pid", 2, ""), nil},
		"text with a backslash":      {is("name", 2, `a\x00`), nil},
		"text beyond ASCII":          {is("name", 2, "é"), nil},
		"text with a control":        {is("name", 2, "a\nb"), nil},
		"text in order":              {append(is("name", 4, "a"), is("name", 16, "z")...), nil},
		"LIKE":                       {is("name", 65, "a%"), nil},
		"GLOB":                       {is("name", 66, "a*"), nil},
		"MATCH":                      {is("name", 64, "a"), nil},
		"not equal":                  {is("pid", 68, "7"), nil},
		"IS":                         {is("pid", 72, "7"), nil},
		"LIMIT and OFFSET":           {append(is("time", 73, "1"), is("time", 74, "5")...), nil},
		"LIKE beside equal":          {append(is("name", 65, "a%"), is("name", 2, "ab")...), condition("name", kmodquery.Equal, "ab")},
		"a column that no event has": {is("rowid", 2, "1"), nil},
	} {
		t.Run(name, func(t *testing.T) {
			q, err := parseQuery(contextJSON(t, nil, test.constraints...))
			require.NoError(t, err)
			require.Equal(t, test.want, conditions(q, eventColumns))
		})
	}
	for name, list := range map[string]string{
		"an alternative of no kind": `[{"op":2,"expr":"7"},{"op":"?","expr":"8"}]`,
		"an alternative of a type":  `[{"op":2,"expr":"7"},{"op":2,"expr":8}]`,
		"no list":                   `{"op":2,"expr":"7"}`,
	} {
		t.Run(name, func(t *testing.T) {
			q, err := parseQuery(`{"constraints":[{"name":"pid","list":` + list + `}]}`)
			require.NoError(t, err)
			require.Empty(t, conditions(q, eventColumns))
		})
	}
}

// some are events on which constraints differ: the limits of int64, numbers near the 15
// digits of floats, text of all kinds of bytes, and NULL.
func some() []kmodquery.Event {
	var events []kmodquery.Event
	for i, number := range []int64{0, 1, 16, 1000, 1_000_000_000, 1_790_000_002, 999_999_999_999_999, 1_000_000_000_000_001,
		1_790_000_000_123_456_789, 1_790_000_000_123_500_000, -1, -1_790_000_000_123_456_789, 1<<63 - 1, -1 << 63} {
		text := []string{"", "dummy", "DUMMY", "7", "1.0", `a\x00`, "a\x00", "é", "\xff", "a b", "dummy ", "\\", "x", "y"}[i]
		events = append(events, kmodquery.Event{Time: number, TimeNanos: number, Pid: &number, Name: text, Params: &text})
	}
	return append(events, kmodquery.Event{})
}

var fuzzColumns = []string{"time", "time_nanos", "eid", "pid", "name", "params", "result"}

// A world has the same events in a store and, as the cells of their rows, in a table that
// stands for osquery's view of them.
type world struct {
	config Config
	cells  *sql.DB
}

func newWorld(t testing.TB) world {
	t.Helper()
	w := world{config: testConfig(t, some()...)}
	var err error
	w.cells, err = sql.Open("sqlite", "file::memory:")
	require.NoError(t, err)
	w.cells.SetMaxOpenConns(1)
	t.Cleanup(func() { require.NoError(t, w.cells.Close()) })
	var definitions []string
	for _, name := range fuzzColumns {
		definitions = append(definitions, name+" "+string(ofTrigger(name).Type))
	}
	_, err = w.cells.Exec("CREATE TABLE cells (" + strings.Join(definitions, ", ") + ")")
	require.NoError(t, err)
	for _, row := range rowsOf(t, w.config, "kernel_module_events", "{}") {
		var values []any
		for _, name := range fuzzColumns {
			if value, ok := row[name]; ok {
				values = append(values, value)
			} else {
				values = append(values, nil)
			}
		}
		_, err = w.cells.Exec("INSERT INTO cells VALUES (?"+strings.Repeat(",?", len(values)-1)+")", values...)
		require.NoError(t, err)
	}
	return w
}

var comparisons = map[int]string{2: "=", 4: ">", 8: "<=", 16: "<", 32: ">=", 65: "LIKE", 66: "GLOB", 68: "!=", 72: "IS"}

// requireSuperset compares the rows for some constraints with those that SQLite selects
// from all rows.
func (w world) requireSuperset(t testing.TB, constraints ...constraint) {
	t.Helper()
	// Equals on one column are alternatives, all else must hold.
	equal := map[string][]string{}
	var where []string
	var values []any
	for _, c := range constraints {
		if comparison, ok := comparisons[c.op]; ok && c.op != 2 {
			where, values = append(where, c.column+" "+comparison+" ?"), append(values, c.expr)
		}
	}
	for _, c := range constraints {
		if c.op == 2 {
			equal[c.column] = append(equal[c.column], c.expr)
		}
	}
	for column, list := range equal {
		var either []string
		for _, value := range list {
			either, values = append(either, column+" = ? COLLATE NOCASE"), append(values, value)
		}
		where = append(where, "("+strings.Join(either, " OR ")+")")
	}
	text := "SELECT eid FROM cells"
	if len(where) > 0 {
		text += " WHERE " + strings.Join(where, " AND ")
	}
	w.requireRows(t, text, values, constraints)
}

func (w world) requireRows(t testing.TB, text string, values []any, constraints []constraint) {
	t.Helper()
	rows, err := w.cells.Query(text, values...)
	require.NoError(t, err)
	defer rows.Close()
	got := column(rowsOf(t, w.config, "kernel_module_events", contextJSON(t, []string{"eid"}, constraints...)), "eid")
	for rows.Next() {
		var eid string
		require.NoError(t, rows.Scan(&eid))
		require.Contains(t, got, eid, "%s %q", text, values)
	}
	require.NoError(t, rows.Err())
}

// osquery sends the first 15 digits of a float.
func TestRoundedFloatsLoseNoRow(t *testing.T) {
	w := newWorld(t)
	for _, column := range []string{"time", "pid"} {
		for _, literal := range []string{"1e9", "1790000001.9999999", "1790000002.0000001", "1790000000123456789.0", "1790000000123456789.5",
			"18446744073709551615", "9223372036854775807.0", "9223372036854775808", "-1790000000123456789.0", "-9223372036854775809",
			"999999999999999.4", "1000000000000001.0", "0.5", "-0.5", "1e-300"} {
			var arrives string
			require.NoError(t, w.cells.QueryRow("SELECT printf('%!.15g', "+literal+")").Scan(&arrives))
			for op, comparison := range comparisons {
				if op > 32 {
					continue
				}
				w.requireRows(t, "SELECT eid FROM cells WHERE "+column+" "+comparison+" "+literal, nil, []constraint{{column, arrives, op}})
			}
		}
	}
}

// FuzzFilter checks that no constraint loses a row that osquery would have kept.
func FuzzFilter(f *testing.F) {
	w := newWorld(f)
	f.Add(`{"constraints":[{"name":"pid","list":[{"op":2,"expr":"1"}],"affinity":"BIGINT"}],"colsUsed":["pid"]}`,
		byte(0), byte(1), "1000000000.0", byte(4), byte(0), "dummy", byte(4), byte(0), "é")
	for _, expr := range []string{"", " 12abc", "1e9", "1.84467440737096e+19", "0x10", "inf", "1_000", "010", "+5", ".5", "5.", "1.e3",
		"-0", "9223372036854775808", "DUMMY", `a\x00`, "\x00", "1.0"} {
		f.Add("", byte(0), byte(3), expr, byte(3), byte(0), expr, byte(4), byte(0), expr)
	}
	ops := []int{2, 4, 8, 16, 32, 65, 66, 68, 72, 73, 74, 1, 0, -1}
	f.Fuzz(func(t *testing.T, raw string, column1, op1 byte, expr1 string, column2, op2 byte, expr2 string, column3, op3 byte, expr3 string) {
		call(t, w.config, "kernel_module_events", raw)
		pick := func(column, op byte, expr string) constraint {
			// As JSON carries it.
			return constraint{fuzzColumns[int(column)%len(fuzzColumns)], strings.ToValidUTF8(expr, "\ufffd"), ops[int(op)%len(ops)]}
		}
		w.requireSuperset(t, pick(column1, op1, expr1), pick(column2, op2, expr2), pick(column3, op3, expr3))
	})
}

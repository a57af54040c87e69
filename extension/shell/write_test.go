package shell

import (
	"bytes"
	"database/sql"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/mattn/go-runewidth"
	"github.com/stretchr/testify/require"
	_ "modernc.org/sqlite"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/test/hostile"
	"github.com/kmodquery/kmodquery/test/leak"
)

func open(t *testing.T) *sql.DB {
	t.Helper()
	leak.Check(t)
	db, err := sql.Open("sqlite", ":memory:")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}

// render runs one statement and returns the output.
func render(t *testing.T, f Format, statement string, args ...any) string {
	t.Helper()
	rows, err := open(t).QueryContext(t.Context(), statement, args...)
	require.NoError(t, err)
	defer rows.Close()
	var out strings.Builder
	_, err = write(t.Context(), &out, &style{format: f}, rows)
	require.NoError(t, err)
	return out.String()
}

const three = `SELECT 1 AS id, 'dummy' AS name, NULL AS signer, 1.5 AS score
UNION ALL SELECT 22, '日本', '', 2.0
UNION ALL SELECT -3, 'a,"b"', x'6869', 1e300`

func TestFormats(t *testing.T) {
	tests := map[Format]string{
		Table: `
+----+-------+--------+--------+
| id | name  | signer | score  |
+----+-------+--------+--------+
| 1  | dummy | NULL   | 1.5    |
| 22 | 日本  |        | 2.0    |
| -3 | a,"b" | hi     | 1e+300 |
+----+-------+--------+--------+
`,
		JSON: `
[
  {"id":"1","name":"dummy","signer":null,"score":"1.5"},
  {"id":"22","name":"日本","signer":"","score":"2.0"},
  {"id":"-3","name":"a,\"b\"","signer":"hi","score":"1e+300"}
]
`,
		CSV: `
id,name,signer,score
1,dummy,,1.5
22,日本,,2.0
-3,"a,""b""",hi,1e+300
`,
		Line: `
    id = 1
  name = dummy
signer = NULL
 score = 1.5

    id = 22
  name = 日本
signer = 
 score = 2.0

    id = -3
  name = a,"b"
signer = hi
 score = 1e+300
`,
	}
	require.Len(t, tests, len(formats))
	for f, want := range tests {
		t.Run(string(f), func(t *testing.T) {
			got := render(t, f, three)
			require.Equal(t, want, "\n"+got)
		})
	}
}

func TestNoRows(t *testing.T) {
	for f, want := range map[Format]string{Table: "", JSON: "[\n]\n", CSV: "a,b\n", Line: ""} {
		got := render(t, f, "SELECT 1 AS a, 2 AS b WHERE 0")
		require.Equal(t, want, got, f)
	}
}

func TestNoColumns(t *testing.T) {
	for f := range formats {
		got := render(t, f, "CREATE TABLE t(x)")
		require.Empty(t, got, f)
	}
}

func TestNoFormatControlsTheTerminal(t *testing.T) {
	const evil = "\x1b[2J\r\n\t\x00\x7f\u009b1m\u202e\u2028\U000e0001\xff\xe2\x28é\\"
	for f := range formats {
		got := render(t, f, "SELECT ? AS \"col\x1b[31m\"", evil)
		require.True(t, utf8.ValidString(got), f)
		require.Equal(t, -1, strings.IndexFunc(strings.ReplaceAll(got, "\n", ""), kmodquery.IsUnsafe), "%s: %q", f, got)
	}

	got := render(t, Line, "SELECT ? AS v", evil)
	require.Equal(t, `v = \x1b[2J\x0d\x0a\x09\x00\x7f\xc2\x9b1m\xe2\x80\xae\xe2\x80\xa8\xf3\xa0\x80\x81\xff\xe2(é\`+"\n", got)

	got = render(t, JSON, "SELECT ? AS v", evil)
	var rows []map[string]string
	require.NoError(t, json.Unmarshal([]byte(got), &rows))
	require.Equal(t, strings.ReplaceAll(strings.ReplaceAll(evil, "\xff", `\xff`), "\xe2\x28", `\xe2(`), rows[0]["v"])
}

// Every format shows hostile text, as a value and as the name of a column, and its output
// can still be parsed.
func TestHostileTexts(t *testing.T) {
	for _, text := range append(hostile.Texts(), strings.Join(hostile.Texts(), " ")) {
		requireReadable(t, text)
	}
}

func requireReadable(t *testing.T, text string) {
	t.Helper()
	for f := range formats {
		var b bytes.Buffer
		out, err := newRowWriter(&b, &style{format: f}, []string{text, "b", text})
		require.NoError(t, err)
		out.row([]cell{{text: text}, {null: true}, {text: text}})
		out.row([]cell{{text: "1"}, {text: "2"}, {text: "3"}})
		out.end()
		for line := range strings.Lines(b.String()) {
			require.Empty(t, hostile.Harm(strings.TrimSuffix(line, "\n")), f)
		}
		lines := strings.Count(b.String(), "\n")
		switch f {
		case Table:
			require.Equal(t, 6, lines)
		case Line:
			require.Equal(t, 7, lines)
		case CSV:
			records, err := csv.NewReader(&b).ReadAll()
			require.NoError(t, err)
			require.Len(t, records, 3)
			require.Equal(t, []string{kmodquery.Printable(text), "", kmodquery.Printable(text)}, records[1])
		case JSON:
			var rows []map[string]*string
			require.NoError(t, json.Unmarshal(b.Bytes(), &rows))
			require.Equal(t, validUTF8(text), *rows[0][validUTF8(text)])
		}
	}
}

// validUTF8 returns a text as JSON shows it.
func validUTF8(text string) string {
	var b strings.Builder
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRuneInString(text[i:])
		if r == utf8.RuneError && size == 1 {
			fmt.Fprintf(&b, `\x%02x`, text[i])
		} else {
			b.WriteString(text[i : i+size])
		}
		i += size
	}
	return b.String()
}

func FuzzFormats(f *testing.F) {
	for _, text := range hostile.Texts() {
		f.Add(text)
	}
	f.Add("\x00")
	f.Fuzz(func(t *testing.T, text string) {
		if text != "b" { // the name of another column
			requireReadable(t, text)
		}
	})
}

func TestJSONKeepsColumnsOfOneName(t *testing.T) {
	got := render(t, JSON, "SELECT 1 AS a, 2 AS a, 3 AS 'a:1', 4 AS a")
	require.Equal(t, "[\n  {\"a\":\"1\",\"a:1\":\"2\",\"a:1:1\":\"3\",\"a:2\":\"4\"}\n]\n", got)
}

func TestCSVKeepsRowsOfOneEmptyCell(t *testing.T) {
	got := render(t, CSV, "SELECT NULL AS a UNION ALL SELECT 'x' UNION ALL SELECT ''")
	records, err := csv.NewReader(strings.NewReader(got)).ReadAll()
	require.NoError(t, err)
	require.Equal(t, [][]string{{"a"}, {""}, {"x"}, {""}}, records)
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("no space left") }

func TestWriteErrors(t *testing.T) {
	db := open(t)
	for f := range formats {
		rows, err := db.QueryContext(t.Context(), "SELECT 1")
		require.NoError(t, err)
		_, err = write(t.Context(), broken{}, &style{format: f}, rows)
		require.ErrorContains(t, err, "no space left", f)
		require.NoError(t, rows.Close())
	}

	const endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"
	rows, err := db.QueryContext(t.Context(), endless)
	require.NoError(t, err)
	_, err = write(t.Context(), broken{}, &style{format: CSV}, rows)
	require.ErrorContains(t, err, "no space left", "Write stops reading")
	require.NoError(t, rows.Close())

	rows, err = db.QueryContext(t.Context(), "SELECT 1")
	require.NoError(t, err)
	defer rows.Close()
	_, err = write(t.Context(), &strings.Builder{}, &style{format: "xml"}, rows)
	require.EqualError(t, err, `unknown format "xml"; choose one of table, json, csv, line`)
}

func TestWriteReturnsTheErrorOfReading(t *testing.T) {
	const overflow = "SELECT abs(column1) AS v FROM (VALUES (1), (-9223372036854775808))"
	for f, want := range map[Format]string{Table: "", JSON: "[\n  {\"v\":\"1\"}", CSV: "v\n1\n", Line: "v = 1\n"} {
		rows, err := open(t).QueryContext(t.Context(), overflow)
		require.NoError(t, err)
		var out strings.Builder
		_, err = write(t.Context(), &out, &style{format: f}, rows)
		require.ErrorContains(t, err, "integer overflow", f)
		require.Equal(t, want, out.String())
		require.NoError(t, rows.Close())
	}
}

func TestParseFormat(t *testing.T) {
	for f := range formats {
		got, err := ParseFormat(strings.ToUpper(string(f)))
		require.NoError(t, err)
		require.Equal(t, f, got)
	}
	pretty, err := ParseFormat("pretty")
	require.NoError(t, err)
	require.Equal(t, Table, pretty)
	_, err = ParseFormat("xml")
	require.EqualError(t, err, `unknown format "xml"; choose one of table, json, csv, line`)
}

// On a terminal no text makes a row wider than the terminal, so none can wrap to the
// beginning of a line and pass for a row of its own.
func TestNoTextLeavesItsPlaceOnTheScreen(t *testing.T) {
	texts := append(hostile.Texts(),
		strings.Repeat("日本", 60), strings.Repeat("e\u0301", 90), "x"+strings.Repeat("\u0301", 300), strings.Repeat("❤\ufe0f", 60),
		strings.Repeat("👩🏽", 60), strings.Repeat("\u200d", 60), strings.Repeat("\xff", 60), strings.Repeat("| x |\n", 60), strings.Repeat("a", 500))
	for _, screen := range []int{10, 40, 80, 120, 200} {
		for _, text := range texts {
			for _, f := range []Format{Table, Line} {
				var b bytes.Buffer
				out, err := newRowWriter(&b, &style{format: f, screen: screen}, []string{"id", "text", "signer"})
				require.NoError(t, err)
				out.row([]cell{{text: "1"}, {text: text}, {null: true}})
				out.row([]cell{{text: "2"}, {text: text}, {text: text}})
				out.end()
				lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
				for _, line := range lines {
					require.LessOrEqual(t, widthOf(line), max(screen, len("signer = ")+minCell), "%q", line)
					require.LessOrEqual(t, runewidth.StringWidth(line), max(screen, len("signer = ")+minCell), "%q", line)
					switch {
					case f == Table && (screen >= 80 || strings.HasPrefix(lines[0], "+")):
						require.Len(t, lines, 6)
						require.Regexp(t, `^(\+-.*-\+|\| .* \|)$`, line)
						require.Equal(t, widthOf(lines[0]), widthOf(line))
					case line != "":
						require.Regexp(t, `^(    id = [12]|  text = .*|signer = .*|         .*)$`, line)
					}
				}
			}
		}
	}
}

func TestWidthsAreSharedByContent(t *testing.T) {
	for _, test := range []struct {
		widths []int
		limit  int
		want   []int
	}{
		{[]int{3, 4}, 100, []int{3, 4}},
		{[]int{3, 100, 200}, 63, []int{3, 30, 30}},
		{[]int{3, 100, 12}, 40, []int{3, 25, 12}},
		{[]int{30, 30, 30}, 32, []int{11, 11, 10}},
		{[]int{8, 8, 8}, 24, []int{8, 8, 8}},
		{[]int{8, 8, 9}, 24, []int{8, 8, 8}},
		{[]int{8, 8, 8}, 23, nil},
		{[]int{19, 100, 100}, 60, []int{19, 21, 20}}, // a time stays whole
		{[]int{19, 40, 40, 40}, 40, nil},
		{[]int{19, 19, 19}, 45, []int{15, 15, 15}},
		{[]int{0}, -1, nil},
		{nil, 0, nil},
	} {
		got, ok := share(test.widths, test.limit)
		require.Equal(t, test.want, got)
		require.Equal(t, test.want != nil || len(test.widths) == 0, ok)
	}
}

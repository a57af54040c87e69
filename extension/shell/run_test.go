package shell

import (
	"bytes"
	"context"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/osquery/osquery-go/gen/osquery"
	"github.com/peterh/liner"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery/extension/virtualtable"
)

func TestRunFromStream(t *testing.T) {
	tests := map[string]struct {
		in, out, err, verdict string
	}{
		"statements": {
			in:  "SELECT 1 AS a; SELECT 2\nAS b;\n",
			out: "a\n1\nb\n2\n",
		},
		"last without semicolon": {in: "SELECT 1 AS a", out: "a\n1\n"},
		"carriage returns":       {in: "SELECT 1 AS a;\r\n.quit\r\n", out: "a\n1\n"},
		"nothing":                {in: " \n-- nothing\n;"},
		"one connection":         {in: "CREATE TEMP VIEW v AS SELECT 7 AS n; SELECT n FROM v;", out: "n\n7\n"},
		"goes on after errors": {
			in:      "SELECT nope; SELECT 1 AS a; SELEC 2;",
			out:     "a\n1\n",
			err:     "error: line 1: no such column: nope; .schema lists them\nerror: line 1: near \"SELEC\": syntax error\n",
			verdict: "2 of 3 statements failed",
		},
		"unfinished string": {
			in:      "SELECT 'a;\n",
			err:     "error: line 1: unrecognized token: \"'a;\"\n",
			verdict: "1 of 1 statements failed",
		},
		"errors are one safe line": {
			in:      "SELECT * FROM \"a\nb\x1b[2J\";",
			err:     `error: line 1: no such table: a\x0ab\x1b[2J; .tables lists them` + "\n",
			verdict: "1 of 1 statements failed",
		},
		"bare words": {
			in:      "exit\nHELP;\n\\q\nSELECT 1 AS a;",
			out:     "a\n1\n",
			err:     "error: line 1: commands begin with a dot; did you mean .exit?\nerror: line 2: commands begin with a dot; did you mean .help?\nerror: line 3: commands begin with a dot; did you mean .quit?\n",
			verdict: "3 of 4 statements failed",
		},
		"commands as people type them": {in: ".TABLES;\n.help mode\n.quit;\n", out: "events\n.mode [FORMAT]    show or set the format: table, json, csv, line\n"},
		"quit":                         {in: "SELECT 1 AS a;\n.quit\nSELECT 2;\n", out: "a\n1\n"},
		"exit":                         {in: "SELECT nope;\n.exit\n", err: "error: line 1: no such column: nope; .schema lists them\n", verdict: "1 of 1 statements failed"},
		"help":                         {in: ".help\n", out: golden(t, "help")},
		"mode":                         {in: ".mode\n.mode JSON\n.mode\nSELECT 1 AS a;\n", out: "csv\n[\n\"json\\u000a\",\n[\n  {\"a\":\"1\"}\n]\n]\n"},
		"no mode":                      {in: ".mode xml\n", err: "error: line 1: unknown format \"xml\"; choose one of table, json, csv, line\n", verdict: "1 of 1 statements failed"},
		"no command": {
			in:      ".dump all\nSELECT 1 AS a;",
			out:     "a\n1\n",
			err:     "error: line 1: unknown command .dump; .help lists the commands\n",
			verdict: "1 of 2 statements failed",
		},
		"too many words": {
			in:      ".tables now\n.mode csv json\n",
			err:     "error: line 1: too many words after .tables; write: .tables\nerror: line 2: too many words after .mode; write: .mode [FORMAT]\n",
			verdict: "2 of 2 statements failed",
		},
		"nearest command": {
			in:      ".tabels\n.timer\n.timer maybe\n.read 'a\n",
			err:     "error: line 1: unknown command .tabels; did you mean .tables?\nerror: line 2: .timer lacks a word; write: .timer on|off\nerror: line 3: unknown setting \"maybe\"; write on or off\nerror: line 4: read command: Unterminated single-quoted string\n",
			verdict: "4 of 4 statements failed",
		},
		"nearest names": {
			in:      "SELECT tme FROM events; SELECT e.rwa FROM events e; SELECT 1 FROM evnts; SELECT lenght('a');\n.all evnts\n.schema evnts\n",
			err:     "error: line 1: no such column: tme; did you mean time?\nerror: line 1: no such column: e.rwa; did you mean raw?\nerror: line 1: no such table: evnts; did you mean events?\nerror: line 1: no such function: lenght; did you mean length?\nerror: line 2: no such table: evnts; did you mean events?\nerror: line 3: no such table: evnts; did you mean events?\n",
			verdict: "6 of 6 statements failed",
		},
		"null":                   {in: "SELECT NULL AS a;\n.nullvalue '(none)'\nSELECT NULL AS a;\n.mode line\nSELECT NULL AS a, '' AS b;\n.nullvalue ''\nSELECT NULL AS a;", out: "a\n\"\"\na\n(none)\na = (none)\nb = \na = \n"},
		"headers":                {in: ".headers off\nSELECT 1 AS a;\n.mode table\nSELECT 2 AS b;\n.headers on\n.width 3\nSELECT 'abcdef' AS b;", out: "1\n+---+\n| 2 |\n+---+\n+-----+\n| b   |\n+-----+\n| ab… |\n+-----+\n"},
		"all":                    {in: "CREATE TABLE \"z z\"(x); INSERT INTO \"z z\" VALUES (3);\n.all 'z z'\n", out: "x\n3\n"},
		"show":                   {in: ".width 1 2\n.timer on\n.headers off\n.show\n", out: "headers   off\nmode      csv\nnullvalue \"\"\noutput    stdout\npager     off\ntimer     on\nwidth     1 2\n"},
		"dot within a statement": {in: "SELECT 1\n.5 AS a;", err: "error: line 1: near \".5\": syntax error\n", verdict: "1 of 1 statements failed"},
		"tables":                 {in: "CREATE TABLE zoo(x); CREATE VIEW ape AS SELECT 1;\n.tables\n", out: "ape\nevents\nzoo\n"},
		"schema": {
			in:  "CREATE TABLE zoo(x);\n.schema\n",
			out: "CREATE TABLE events(\n  time BIGINT,\n  raw TEXT HIDDEN\n);\nCREATE TABLE zoo(x);\n",
		},
		"schema of one": {in: "CREATE TABLE zoo(x);\n.schema EVENTS\n", out: "CREATE TABLE events(\n  time BIGINT,\n  raw TEXT HIDDEN\n);\n"},
		"schema of none": {
			in:      ".schema nope\n",
			err:     "error: line 1: no such table: nope; .tables lists them\n",
			verdict: "1 of 1 statements failed",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			db, err := virtualtable.Open(t.Context(), events{})
			require.NoError(t, err)
			defer db.Close()
			var out, errs bytes.Buffer
			err = Run(t.Context(), db, Options{In: strings.NewReader(test.in), Out: &out, Err: &errs, Format: CSV})
			require.Equal(t, test.out, out.String())
			require.Equal(t, test.err, errs.String())
			if test.verdict == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, ErrFailed)
			require.EqualError(t, err, test.verdict)
		})
	}
}

// events is a table of two columns. If began is set, a query of the table calls it and then
// waits until the query's context ends.
type events struct {
	began func()
}

func (events) Name() string { return "events" }

func (e events) Call(ctx context.Context, request osquery.ExtensionPluginRequest) osquery.ExtensionResponse {
	if request["action"] == "columns" {
		return osquery.ExtensionResponse{Status: &osquery.ExtensionStatus{}, Response: osquery.ExtensionPluginResponse{
			{"id": "column", "name": "time", "type": "BIGINT", "op": "1"},
			{"id": "column", "name": "raw", "type": "TEXT", "op": "16"},
		}}
	}
	if e.began != nil {
		e.began()
		<-ctx.Done()
		return osquery.ExtensionResponse{Status: &osquery.ExtensionStatus{Code: 1, Message: ctx.Err().Error()}}
	}
	return osquery.ExtensionResponse{Status: &osquery.ExtensionStatus{}}
}

func TestRunDefaultsToTable(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, Run(t.Context(), open(t), Options{In: strings.NewReader("SELECT 1 AS a"), Out: &out, Err: &out}))
	require.Equal(t, "+---+\n| a |\n+---+\n| 1 |\n+---+\n", out.String())
}

func TestRunEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	never, keep := io.Pipe()
	defer keep.Close()
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, open(t), Options{In: never, Out: io.Discard, Err: io.Discard}) }()
	_, err := keep.Write([]byte("SELECT 1;\n"))
	require.NoError(t, err)
	cancel()
	require.ErrorIs(t, <-ended, context.Canceled)
}

func TestQueryInJSONIsAlwaysAnArray(t *testing.T) {
	for _, text := range []string{"", " ;", "-- nothing", "/* nothing */", "CREATE TEMP VIEW v AS SELECT 7", "SELECT 1 AS a WHERE 0"} {
		var out strings.Builder
		require.NoError(t, Query(t.Context(), open(t), &out, JSON, text))
		require.Equal(t, "[\n]\n", out.String(), text)
		out.Reset()
		require.NoError(t, Query(t.Context(), open(t), &out, Line, text))
		require.Empty(t, out.String(), text)
	}
	require.Error(t, Query(t.Context(), open(t), failingWriter{}, JSON, ""))
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestQuery(t *testing.T) {
	db := open(t)
	var out bytes.Buffer
	require.NoError(t, Query(t.Context(), db, &out, CSV, "CREATE TEMP VIEW v AS SELECT 7 AS n; SELECT n FROM v -- all"))
	require.Equal(t, "n\n7\n", out.String())

	out.Reset()
	err := Query(t.Context(), db, &out, CSV, "SELECT 1 AS a; SELECT nope; SELECT 2 AS b")
	require.ErrorContains(t, err, "no such column: nope")
	require.Equal(t, "a\n1\n", out.String())
}

// typed stands for a user at a terminal.
type typed struct {
	lines   []string
	prompts []string
	history []string
}

const ctrlC = "^C"

func (p *typed) Prompt(prompt string) (string, error) {
	p.prompts = append(p.prompts, prompt)
	if len(p.lines) == 0 {
		return "", io.EOF
	}
	line := p.lines[0]
	p.lines = p.lines[1:]
	if line == ctrlC {
		return "", liner.ErrPromptAborted
	}
	return line, nil
}

func (p *typed) AppendHistory(line string) { p.history = append(p.history, line) }

func TestInteractiveSession(t *testing.T) {
	conn, err := open(t).Conn(t.Context())
	require.NoError(t, err)
	defer conn.Close()
	person := &typed{lines: []string{"SELECT 'never", ctrlC, "SELECT 1", "", "AS a;", ".nope", "SELECT nope;", ".mode line", "SELECT 2 AS b; SELECT"}}
	var out, errs bytes.Buffer
	s := newSession(conn, &out, &errs, CSV)
	s.lines, s.interactive = person, true
	require.NoError(t, s.run(t.Context()))
	require.Equal(t, "a\n1\n(1 row)\nb = 2\n(1 row)\n\n", out.String())
	require.Equal(t, "error: unknown command .nope; .help lists the commands\nerror: no such column: nope; .schema lists them\n", errs.String())
	require.Equal(t, []string{
		promptFirst, promptNext, promptFirst, promptNext, promptNext, promptFirst, promptFirst, promptFirst, promptFirst, promptNext,
	}, person.prompts)
	require.Equal(t, []string{"SELECT 'never", "SELECT 1", "AS a;", "SELECT 1 AS a;", ".nope", "SELECT nope;", ".mode line", "SELECT 2 AS b; SELECT"}, person.history)
}

// A program that reads JSON gets one document, also from several statements and from
// those that fail.
func TestJSONIsOneDocument(t *testing.T) {
	for text, want := range map[string]string{
		"SELECT 1 AS a":                                        `[{"a":"1"}]`,
		"SELECT 1 AS a; SELECT 2 AS b WHERE 0":                 `[[{"a":"1"}],[]]`,
		"CREATE TEMP VIEW v AS SELECT 7 AS n; SELECT n FROM v": `[{"n":"7"}]`,
		"SELEC 1":                    `{"error":"near \"SELEC\": syntax error"}`,
		"SELECT 1 AS a; SELECT nope": `[[{"a":"1"}],{"error":"no such column: nope; .schema lists them"}]`,
		"SELECT abs(column1) AS v FROM (VALUES (1), (-9223372036854775808))": `{"error":"integer overflow"}`,
		".nope":                       `{"error":"unknown command .nope; .help lists the commands"}`,
		".tables":                     `[]`,
		"CREATE TABLE t(x);\n.tables": `"t\n"`,
		"SELECT 1 AS a;\n.mode json\nSELECT 2 AS a;": `[[{"a":"1"}],[{"a":"2"}]]`,
	} {
		var out, errs bytes.Buffer
		err := Query(t.Context(), open(t), &out, JSON, text)
		require.JSONEq(t, want, out.String(), text)
		require.Equal(t, strings.Contains(want, "error"), err != nil, text)
		out.Reset()
		err = Run(t.Context(), open(t), Options{In: strings.NewReader(text), Out: &out, Err: &errs, Format: JSON})
		require.JSONEq(t, want, out.String(), text)
		require.Equal(t, strings.Contains(want, "error"), err != nil, text)
		require.Equal(t, err != nil, errs.Len() > 0)
	}
	var out bytes.Buffer
	require.ErrorIs(t, Run(t.Context(), open(t), Options{In: strings.NewReader("SELEC; SELECT 1 AS a"), Out: &out, Err: io.Discard, Format: JSON}), ErrFailed)
	require.JSONEq(t, `[{"error":"near \"SELEC\": syntax error"},[{"a":"1"}]]`, out.String())
}

func TestOutputGoesToFiles(t *testing.T) {
	t.Chdir(t.TempDir())
	const more = ".output more\nSELECT 3 AS c;\nSELECT 4 AS d;\n"
	for f, want := range map[Format][3]string{
		CSV:  {"b\n2\n", "c\n3\nd\n4\n", "a\n1\ne\n5\n"},
		JSON: {"[\n  {\"b\":\"2\"}\n]\n", "[\n[\n  {\"c\":\"3\"}\n],\n[\n  {\"d\":\"4\"}\n]\n]\n", "[\n  {\"a\":\"1\"}\n]\n[\n  {\"e\":\"5\"}\n]\n"},
	} {
		var out bytes.Buffer
		text := "SELECT 1 AS a;\n.once one\nSELECT 2 AS b;\n" + more + ".output\nSELECT 5 AS e;"
		require.NoError(t, Query(t.Context(), open(t), &out, f, text))
		one, err := os.ReadFile("one")
		require.NoError(t, err)
		two, err := os.ReadFile("more")
		require.NoError(t, err)
		require.Equal(t, want, [3]string{string(one), string(two), out.String()})
		out.Reset()
		require.NoError(t, Query(t.Context(), open(t), &out, f, more))
		two, err = os.ReadFile("more")
		require.NoError(t, err)
		require.Equal(t, want[1], string(two))
	}
	info, err := os.Stat("one")
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	require.NoError(t, os.Symlink("one", "link"))
	require.ErrorContains(t, Query(t.Context(), open(t), io.Discard, CSV, ".output link"), "link is a link; write to the file that it names")
}

func TestReadRunsAFile(t *testing.T) {
	t.Chdir(t.TempDir())
	require.NoError(t, os.WriteFile("a b.sql", []byte("SELECT 1 AS a;\n.mode line\nSELECT 2 AS b"), 0o600))
	require.NoError(t, os.WriteFile("endless.sql", []byte(".read endless.sql\n"), 0o600))
	var out bytes.Buffer
	require.NoError(t, Query(t.Context(), open(t), &out, CSV, ".read 'a b.sql'\nSELECT 3 AS c"))
	require.Equal(t, "a\n1\nb = 2\nc = 3\n", out.String())
	require.ErrorContains(t, Query(t.Context(), open(t), &out, CSV, ".read endless.sql"), "read by 8 files that read each other")
	require.ErrorIs(t, Query(t.Context(), open(t), &out, CSV, ".read none.sql"), os.ErrNotExist)
}

func TestTimerGoesToStderr(t *testing.T) {
	var out, errs bytes.Buffer
	require.NoError(t, Run(t.Context(), open(t), Options{In: strings.NewReader(".timer on\nSELECT 1 AS a;"), Out: &out, Err: &errs, Format: JSON}))
	require.Regexp(t, `^\([0-9]+\.[0-9]{3} s\)\n$`, errs.String())
	require.Equal(t, "[\n  {\"a\":\"1\"}\n]\n", out.String())
}

func TestCompletion(t *testing.T) {
	db, err := virtualtable.Open(t.Context(), events{})
	require.NoError(t, err)
	defer db.Close()
	conn, err := db.Conn(t.Context())
	require.NoError(t, err)
	defer conn.Close()
	_, err = conn.ExecContext(t.Context(), "CREATE TABLE \"evil\x1b[2J\"(\"time\x1b\")")
	require.NoError(t, err)
	_, err = conn.ExecContext(t.Context(), "CREATE TABLE others(name)")
	require.NoError(t, err)
	s := newSession(conn, io.Discard, io.Discard, Table)
	for line, want := range map[string][]string{
		"sel":             {"", "select"},
		"SELECT na":       {"SELECT ", "name", "natural"},
		"SELECT NA":       {"SELECT ", "NATURAL", "NAme"},
		"SELECT":          {"", "SELECT "},
		"SELECT * FROM ":  {"SELECT * FROM ", "events", "others"},
		"SELECT count(ti": {"SELECT count(", "time"},
		"SELECT o.":       {"SELECT o."},
		"SELECT n FROM others o, events WHERE o.": {"SELECT n FROM others o, events WHERE o.", "name"},
		"SELECT na FROM events WHERE r":           {"SELECT na FROM events WHERE ", "raw", "recursive", "regexp", "round"},
		"SELECT x FROM nothing WHERE na":          {"SELECT x FROM nothing WHERE ", "name", "natural"},
		"SELECT * FROM ev":                        {"SELECT * FROM ", "events"},
		"SELECT e.r":                              {"SELECT e."},
		"SELECT events.r":                         {"SELECT events.", "raw"},
		"SELECT e.r FROM events AS e":             {"SELECT e.r FROM events AS ", "else", "end", "escape", "events", "except", "exists"},
		"SELECT ":                                 {"SELECT ", " "},
		".t":                                      {"", ".tables", ".timer"},
		".mode ":                                  {".mode ", "csv", "json", "line", "table"},
		".schema EV":                              {".schema ", "EVents"},
		".timer o":                                {".timer ", "off", "on"},
		".read ev":                                {".read "},
	} {
		head, words := s.complete(t.Context(), "", line)
		require.Equal(t, want, append([]string{head}, words...), line)
	}
}

// A script that fails says where, also in a file that it reads.
func TestErrorsNameTheirPlace(t *testing.T) {
	t.Chdir(t.TempDir())
	require.NoError(t, os.WriteFile("inner.sql", []byte("SELECT 1\nAS a;\n\nSELECT\nnope;\n"), 0o600))
	var errs bytes.Buffer
	require.ErrorIs(t, Run(t.Context(), open(t), Options{
		In: strings.NewReader("SELECT 1 AS b;\n.read inner.sql\n.nope\n"), Out: io.Discard, Err: &errs, Format: CSV,
	}), ErrFailed)
	require.Equal(t, "error: inner.sql, line 4: no such column: nope; .schema lists them\n"+
		"error: line 3: unknown command .nope; .help lists the commands\n", errs.String())
	require.EqualError(t, Query(t.Context(), open(t), io.Discard, CSV, ".read inner.sql"), "inner.sql, line 4: no such column: nope; .schema lists them")
}

// What is no file does not stop the shell, whatever its other end does.
func TestPipesDoNotStopTheShell(t *testing.T) {
	t.Chdir(t.TempDir())
	require.NoError(t, unix.Mkfifo("pipe", 0o600))
	require.EqualError(t, Query(t.Context(), open(t), io.Discard, CSV, ".read pipe"), "pipe is no regular file")
	require.EqualError(t, Query(t.Context(), open(t), io.Discard, CSV, ".output pipe"), "pipe is a pipe that no program reads")
	require.EqualError(t, Query(t.Context(), open(t), io.Discard, CSV, ".once pipe\nSELECT 1"), "pipe is a pipe that no program reads")
}

// .once takes the rows of one statement, and nothing else changes a file.
func TestOnceTakesRows(t *testing.T) {
	t.Chdir(t.TempDir())
	require.NoError(t, os.WriteFile("kept", []byte("old"), 0o600))
	var out bytes.Buffer
	require.ErrorIs(t, Run(t.Context(), open(t), Options{
		In:  strings.NewReader(".once kept\nSELECT nope;\n.output all\n.once one\n.show\nSELECT 1 AS a;\nSELECT 2 AS b;\n.output\n"),
		Out: &out, Err: io.Discard, Format: CSV,
	}), ErrFailed)
	read := func(path string) string {
		content, err := os.ReadFile(path)
		require.NoError(t, err)
		return string(content)
	}
	require.Equal(t, "old", read("kept"))
	require.Equal(t, "a\n1\n", read("one"))
	require.Contains(t, read("all"), "width     fit the terminal\nb\n2\n")
	require.Empty(t, out.String())
}

// Once its context ends, a statement writes no more, however many rows are left.
func TestOutputEndsWithItsContext(t *testing.T) {
	for f := range formats {
		ctx, cancel := context.WithCancel(t.Context())
		rows, err := open(t).QueryContext(t.Context(), "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000) SELECT i, 'some text' AS t FROM n")
		require.NoError(t, err)
		out := &endingWriter{end: cancel}
		_, err = write(ctx, out, &style{format: f}, rows)
		require.ErrorIs(t, err, context.Canceled, f)
		require.Equal(t, 1, out.writes, f)
		require.NoError(t, rows.Close())
	}
}

// An endingWriter calls end with each write.
type endingWriter struct {
	end    func()
	writes int
}

func (w *endingWriter) Write(text []byte) (int, error) {
	w.writes++
	w.end()
	return len(text), nil
}

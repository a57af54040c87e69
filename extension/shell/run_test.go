package shell

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"

	"github.com/osquery/osquery-go/gen/osquery"
	"github.com/peterh/liner"
	"github.com/stretchr/testify/require"

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
			err:     "error: SQL logic error: no such column: nope (1)\nerror: SQL logic error: near \"SELEC\": syntax error (1)\n",
			verdict: "2 of 3 statements failed",
		},
		"unfinished string": {
			in:      "SELECT 'a;\n",
			err:     "error: SQL logic error: unrecognized token: \"'a;\" (1)\n",
			verdict: "1 of 1 statements failed",
		},
		"errors are one safe line": {
			in:      "SELECT * FROM \"a\nb\x1b[2J\";",
			err:     `error: SQL logic error: no such table: a\x0ab\x1b[2J (1)` + "\n",
			verdict: "1 of 1 statements failed",
		},
		"quit":    {in: "SELECT 1 AS a;\n.quit\nSELECT 2;\n", out: "a\n1\n"},
		"exit":    {in: "SELECT nope;\n.exit\n", err: "error: SQL logic error: no such column: nope (1)\n", verdict: "1 of 1 statements failed"},
		"help":    {in: ".help\n", out: help},
		"mode":    {in: ".mode\n.mode JSON\n.mode\nSELECT 1 AS a;\n", out: "csv\njson\n[\n  {\"a\":\"1\"}\n]\n"},
		"no mode": {in: ".mode xml\n", err: "error: unknown format \"xml\"; choose one of table, json, csv, line\n", verdict: "1 of 1 statements failed"},
		"no command": {
			in:      ".dump all\nSELECT 1 AS a;",
			out:     "a\n1\n",
			err:     "error: unknown command .dump; .help lists the commands\n",
			verdict: "1 of 2 statements failed",
		},
		"too many words": {
			in:      ".tables now\n.mode csv json\n",
			err:     "error: too many words after .tables; .help shows its arguments\nerror: too many words after .mode; .help shows its arguments\n",
			verdict: "2 of 2 statements failed",
		},
		"dot within a statement": {in: "SELECT 1\n.5 AS a;", err: "error: SQL logic error: near \".5\": syntax error (1)\n", verdict: "1 of 1 statements failed"},
		"tables":                 {in: "CREATE TABLE zoo(x); CREATE VIEW ape AS SELECT 1;\n.tables\n", out: "ape\nevents\nzoo\n"},
		"schema": {
			in:  "CREATE TABLE zoo(x);\n.schema\n",
			out: "CREATE TABLE events(\n  time BIGINT,\n  raw TEXT HIDDEN\n);\nCREATE TABLE zoo(x);\n",
		},
		"schema of one": {in: "CREATE TABLE zoo(x);\n.schema EVENTS\n", out: "CREATE TABLE events(\n  time BIGINT,\n  raw TEXT HIDDEN\n);\n"},
		"schema of none": {
			in:      ".schema nope\n",
			err:     "error: no such table: nope; .tables lists them\n",
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
	s := &session{conn: conn, lines: person, out: &out, err: &errs, format: CSV, interactive: true}
	require.NoError(t, s.run(t.Context()))
	require.Equal(t, "a\n1\nb = 2\n\n", out.String())
	require.Equal(t, "error: unknown command .nope; .help lists the commands\nerror: SQL logic error: no such column: nope (1)\n", errs.String())
	require.Equal(t, []string{
		promptFirst, promptNext, promptFirst, promptNext, promptNext, promptFirst, promptFirst, promptFirst, promptFirst, promptNext,
	}, person.prompts)
	require.Equal(t, []string{"SELECT 'never", "SELECT 1", "AS a;", ".nope", "SELECT nope;", ".mode line", "SELECT 2 AS b; SELECT"}, person.history)
}

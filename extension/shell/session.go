package shell

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/peterh/liner"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/tables"
)

const (
	promptFirst = "kmodquery> "
	promptNext  = "      ...> "
)

// session is one run of the shell.
type session struct {
	conn        *sql.Conn
	lines       lineReader
	interactive bool
	stops       bool      // at the first failure
	typed       []string  // the lines of the statement that is not complete
	standard    io.Writer // the output of the shell
	out, err    io.Writer // out is standard, or the file of .output
	file        *os.File  // of .output, or nil
	once        string    // the file that takes the next result; empty for none
	style
	document      document
	hasTimer      bool
	hasPager      bool
	place         string // the file that .read reads, and a comma; empty for none
	line          int    // where the statement begins, of a script; 0 for what is typed
	depth         int    // of files that .read reads
	isInterrupted bool   // by Ctrl-C, since the last prompt on the terminal

	total, failed int   // statements and commands
	failure       error // the last one
}

func newSession(conn *sql.Conn, out, err io.Writer, f Format) *session {
	return &session{conn: conn, standard: out, out: out, err: err, style: style{format: f}}
}

// run runs all lines. In JSON it then writes the document.
func (s *session) run(ctx context.Context) error {
	if err := s.runLines(ctx); err != nil && !errors.Is(err, errQuit) {
		return err
	}
	if err := s.closeOutput(); err != nil {
		return err
	}
	if s.format == JSON && !s.interactive && (len(s.document.results) > 0 || !s.document.isWritten) {
		if err := s.flush(); err != nil {
			return err
		}
	}
	if s.interactive || s.failed == 0 {
		return nil
	}
	return fmt.Errorf("%d of %d statements %w", s.failed, s.total, ErrFailed)
}

func (s *session) runLines(ctx context.Context) error {
	var split splitter
	s.typed = nil
	for !s.stops || s.failed == 0 {
		if s.depth == 0 {
			s.isInterrupted = false
		} else if s.isInterrupted {
			return nil
		}
		line, err := s.prompt(ctx, split.open())
		switch {
		case errors.Is(err, liner.ErrPromptAborted):
			split, s.typed = splitter{}, nil
			continue
		case errors.Is(err, io.EOF):
			s.end(ctx, &split)
			return nil
		case err != nil:
			return fmt.Errorf("read statement: %w", err)
		}
		if strings.TrimSpace(line) != "" {
			s.lines.AppendHistory(line)
			s.typed = append(s.typed, line)
			if at, ok := s.lines.(*stream); ok && len(s.typed) == 1 {
				s.line = at.line
			}
		}
		if !split.open() && isCommand(line) {
			s.typed = nil
			err := s.command(ctx, line)
			if errors.Is(err, errQuit) {
				return err
			}
			s.count(err)
			continue
		}
		statements := split.feed(line)
		if !split.open() {
			// A comment would hide what follows it on the line, and a string may have ended with it.
			if whole := strings.Join(s.typed, " "); len(s.typed) > 1 && !strings.ContainsAny(whole, "'\"`") && !strings.Contains(whole, "--") {
				s.lines.AppendHistory(whole)
			}
			s.typed = nil
		}
		for _, statement := range statements {
			if !s.stops || s.failed == 0 {
				s.statement(ctx, statement)
			}
		}
	}
	return nil
}

// prompt returns the next line, or the error of ctx once ctx ends.
func (s *session) prompt(ctx context.Context, within bool) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	prompt := promptFirst
	if within {
		prompt = promptNext
	}
	var line string
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		line, err = s.lines.Prompt(prompt)
	}()
	select {
	case <-done:
		return line, err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// end runs the last statement if the input ended without a semicolon. In an interactive
// session it only prints a newline.
func (s *session) end(ctx context.Context, split *splitter) {
	if s.interactive && s.depth == 0 {
		fmt.Fprintln(s.out)
		return
	}
	if last, ok := split.cut(); ok {
		s.statement(ctx, last)
	}
}

// statement runs one statement and writes its rows.
func (s *session) statement(ctx context.Context, statement string) {
	running := ctx
	if s.interactive {
		// While no prompt is shown, Ctrl-C on the terminal sends SIGINT.
		var stop context.CancelFunc
		running, stop = signal.NotifyContext(ctx, os.Interrupt)
		defer stop()
	}
	start := time.Now()
	s.screen = screenWidth(s.out)
	rows, hasRows, err := s.execute(running, statement)
	switch {
	case err != nil && running.Err() != nil && ctx.Err() == nil:
		err, s.isInterrupted = errors.New("interrupted"), true
	case err != nil:
		err = s.explain(ctx, statement, err)
	}
	if s.format == JSON && err != nil {
		s.document.addError(err)
	}
	if s.format == JSON && s.interactive && (hasRows || err != nil) {
		err = errors.Join(err, s.flush())
	}
	s.count(err)
	if err == nil {
		s.report(rows, hasRows, time.Since(start))
	}
}

// execute runs a statement. hasRows reports whether it has columns.
func (s *session) execute(ctx context.Context, statement string) (count int, hasRows bool, err error) {
	once := s.once
	s.once = ""
	rows, err := s.conn.QueryContext(tables.WithStatement(ctx), statement)
	if err != nil {
		return 0, false, err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return 0, false, fmt.Errorf("read column names: %w", err)
	}
	hasRows = len(columns) > 0
	if once != "" && hasRows {
		count, err = s.executeInto(ctx, once, rows)
		return count, true, err
	}
	if s.format != JSON {
		out, done := s.page()
		count, err = write(ctx, out, &s.style, rows)
		done()
		return count, hasRows, err
	}
	var result bytes.Buffer
	if count, err = write(ctx, &result, &s.style, rows); err == nil {
		s.document.add(result.String())
	}
	return count, hasRows, err
}

// executeInto writes the rows to the file of .once, which it opens now that there are rows.
func (s *session) executeInto(ctx context.Context, path string, rows *sql.Rows) (count int, err error) {
	file, err := openOutput(path)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	whole := s.style
	whole.screen = 0
	return write(ctx, file, &whole, rows)
}

// report shows the number of rows on a terminal, and the time of a statement if that is
// wanted.
func (s *session) report(rows int, hasRows bool, took time.Duration) {
	var parts []string
	switch {
	case !s.interactive || !hasRows:
	case rows == 0:
		parts = append(parts, "no rows")
	case rows == 1:
		parts = append(parts, "1 row")
	default:
		parts = append(parts, fmt.Sprintf("%d rows", rows))
	}
	if s.hasTimer {
		parts = append(parts, fmt.Sprintf("%.3f s", took.Seconds()))
	}
	if len(parts) == 0 {
		return
	}
	to := s.err
	if s.interactive {
		to = s.standard
	}
	fmt.Fprintf(to, "(%s)\n", strings.Join(parts, ", "))
}

func (s *session) count(err error) {
	s.total++
	if err != nil {
		s.failed++
		s.failure = err
		if s.depth > 0 {
			s.failure = fmt.Errorf("%s%w", s.where(), err)
		}
		s.fail(err)
	}
}

// where returns the place of a statement in a script, before what is said of it.
func (s *session) where() string {
	if s.line == 0 {
		return ""
	}
	return fmt.Sprintf("%sline %d: ", s.place, s.line)
}

// fail reports an error in one line.
func (s *session) fail(err error) {
	fmt.Fprintln(s.err, "error: "+kmodquery.Printable(s.where()+err.Error()))
}

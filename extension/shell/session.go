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
	standard    io.Writer // the output of the shell
	out, err    io.Writer // out is standard, or the file of .output and .once
	file        *os.File  // of .output and .once, or nil
	once        bool      // file takes one result
	style
	document document
	hasTimer bool
	depth    int // of files that .read reads

	total, failed int   // statements and commands
	failure       error // the last one
}

func newSession(conn *sql.Conn, out, err io.Writer, f Format) *session {
	return &session{conn: conn, standard: out, out: out, err: err, style: style{format: f}}
}

// run runs all lines. In JSON it then writes the document.
func (s *session) run(ctx context.Context) error {
	if err := s.runLines(ctx); err != nil {
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
	var typed []string // the lines of the statement
	for !s.stops || s.failed == 0 {
		line, err := s.prompt(ctx, split.open())
		switch {
		case errors.Is(err, liner.ErrPromptAborted):
			split, typed = splitter{}, nil
			continue
		case errors.Is(err, io.EOF):
			s.end(ctx, &split)
			return nil
		case err != nil:
			return fmt.Errorf("read statement: %w", err)
		}
		if strings.TrimSpace(line) != "" {
			s.lines.AppendHistory(line)
			typed = append(typed, line)
		}
		if !split.open() && strings.HasPrefix(strings.TrimSpace(line), ".") {
			err := s.command(ctx, line)
			if errors.Is(err, errQuit) {
				return nil
			}
			typed = nil
			s.count(err)
			continue
		}
		statements := split.feed(line)
		if !split.open() {
			// A comment would hide what follows it on the line.
			if whole := strings.Join(typed, " "); len(typed) > 1 && !strings.Contains(whole, "--") {
				s.lines.AppendHistory(whole)
			}
			typed = nil
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
		err = errors.New("interrupted")
	case err != nil:
		err = s.explain(ctx, statement, err)
	}
	if s.format == JSON && err != nil {
		s.document.addError(err)
	}
	if s.format == JSON && (s.interactive || s.once) && (hasRows || err != nil) {
		err = errors.Join(err, s.flush())
	}
	s.count(err)
	if err == nil {
		s.report(rows, hasRows, time.Since(start))
	}
	if s.once {
		s.count(s.closeOutput())
	}
}

// execute runs a statement. hasRows reports whether it has columns.
func (s *session) execute(ctx context.Context, statement string) (count int, hasRows bool, err error) {
	rows, err := s.conn.QueryContext(tables.WithStatement(ctx), statement)
	if err != nil {
		return 0, false, err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return 0, false, fmt.Errorf("read column names: %w", err)
	}
	if s.format != JSON {
		count, err = write(s.out, &s.style, rows)
		return count, len(columns) > 0, err
	}
	var result bytes.Buffer
	if count, err = write(&result, &s.style, rows); err == nil {
		s.document.add(result.String())
	}
	return count, len(columns) > 0, err
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
		s.fail(err)
	}
}

// fail reports an error in one line.
func (s *session) fail(err error) {
	fmt.Fprintln(s.err, "error: "+kmodquery.Printable(err.Error()))
}

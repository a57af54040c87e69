package shell

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"

	"github.com/peterh/liner"

	"github.com/kmodquery/kmodquery"
)

const (
	promptFirst = "kmodquery> "
	promptNext  = "      ...> "
)

// session is one run of the shell.
type session struct {
	conn        *sql.Conn
	lines       lineReader
	out, err    io.Writer
	format      Format
	interactive bool

	total, failed int // statements and commands
}

func (s *session) run(ctx context.Context) error {
	var split splitter
	for {
		line, err := s.prompt(ctx, split.open())
		switch {
		case errors.Is(err, liner.ErrPromptAborted):
			split = splitter{}
			continue
		case errors.Is(err, io.EOF):
			return s.end(ctx, &split)
		case err != nil:
			return fmt.Errorf("read statement: %w", err)
		}
		if strings.TrimSpace(line) != "" {
			s.lines.AppendHistory(line)
		}
		if !split.open() && strings.HasPrefix(strings.TrimSpace(line), ".") {
			err := s.command(ctx, line)
			if errors.Is(err, errQuit) {
				return s.verdict()
			}
			s.count(err)
			continue
		}
		for _, statement := range split.feed(line) {
			s.statement(ctx, statement)
		}
	}
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

// end runs the last statement if the input ended without a semicolon, and returns an
// error if any statement failed. In an interactive session it only prints a newline.
func (s *session) end(ctx context.Context, split *splitter) error {
	if s.interactive {
		fmt.Fprintln(s.out)
		return nil
	}
	if last, ok := split.cut(); ok {
		s.statement(ctx, last)
	}
	return s.verdict()
}

func (s *session) statement(ctx context.Context, statement string) {
	running := ctx
	if s.interactive {
		// While no prompt is shown, Ctrl-C on the terminal sends SIGINT.
		var stop context.CancelFunc
		running, stop = signal.NotifyContext(ctx, os.Interrupt)
		defer stop()
	}
	err := execute(running, s.conn, s.out, s.format, statement)
	if err != nil && running.Err() != nil && ctx.Err() == nil {
		err = errors.New("interrupted")
	}
	s.count(err)
}

func (s *session) count(err error) {
	s.total++
	if err != nil {
		s.failed++
		s.fail(err)
	}
}

// fail reports an error in one line.
func (s *session) fail(err error) {
	fmt.Fprintln(s.err, "error: "+kmodquery.Printable(err.Error()))
}

func (s *session) verdict() error {
	if s.interactive || s.failed == 0 {
		return nil
	}
	return fmt.Errorf("%d of %d statements %w", s.failed, s.total, ErrFailed)
}

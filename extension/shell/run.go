package shell

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/mattn/go-isatty"
)

// ErrFailed is matched by the error of [Run] when statements failed that were
// already reported, each with a line of its own.
var ErrFailed = errors.New("failed")

// Options say where a shell reads and writes.
type Options struct {
	// In is where statements come from. The shell is interactive when In is
	// os.Stdin, Out is os.Stdout and both are terminals.
	In io.Reader
	// Out takes rows and what commands show.
	Out io.Writer
	// Err takes one line for each failure.
	Err io.Writer
	// Format is the format to begin with; empty is Table.
	Format Format
	// HistoryFile keeps the lines that were typed interactively, readable by
	// its owner only. Empty keeps none.
	HistoryFile string
}

// Run reads statements and commands from o.In and runs them one after the
// other on one connection of db, until the input ends, .quit is read or ctx is
// done.
//
// On a terminal it prompts, keeps a history, drops what was typed on Ctrl-C
// and ends on Ctrl-D; Ctrl-C ends a statement that runs, so the caller must
// not take SIGINT for the end of ctx. Failures are shown, and Run returns nil.
//
// Elsewhere the last statement needs no semicolon, a failure does not keep the
// next statement from running, and when there was one the error that Run
// returns matches [ErrFailed].
func Run(ctx context.Context, db *sql.DB, o Options) error {
	conn, err := db.Conn(ctx)
	if err != nil {
		return fmt.Errorf("open connection: %w", err)
	}
	defer conn.Close()
	if o.Format == "" {
		o.Format = Table
	}
	s := &session{conn: conn, out: o.Out, err: o.Err, format: o.Format}
	if !interactive(o) {
		s.lines = &stream{reader: bufio.NewReader(o.In)}
		return s.run(ctx)
	}
	editor := newEditor(o.HistoryFile, s.fail)
	defer editor.close(s.fail)
	s.lines, s.interactive = editor, true
	// Between a prompt and a statement Ctrl-C has nothing to end, least of all
	// the process with its terminal still changed.
	idle := make(chan os.Signal, 1)
	signal.Notify(idle, os.Interrupt)
	defer signal.Stop(idle)
	fmt.Fprintln(s.out, "End a statement with a semicolon; .help lists the commands.")
	return s.run(ctx)
}

func interactive(o Options) bool {
	return o.In == os.Stdin && isatty.IsTerminal(os.Stdin.Fd()) &&
		o.Out == os.Stdout && isatty.IsTerminal(os.Stdout.Fd())
}

// Query runs the statements of one text on one connection of db and writes
// their rows to w. It stops at the first failure and returns it. The last
// statement needs no semicolon.
func Query(ctx context.Context, db *sql.DB, w io.Writer, f Format, text string) error {
	conn, err := db.Conn(ctx)
	if err != nil {
		return fmt.Errorf("open connection: %w", err)
	}
	defer conn.Close()
	var split splitter
	statements := split.feed(text)
	if last, ok := split.cut(); ok {
		statements = append(statements, last)
	}
	for _, statement := range statements {
		if err := execute(ctx, conn, w, f, statement); err != nil {
			return err
		}
	}
	return nil
}

func execute(ctx context.Context, conn *sql.Conn, w io.Writer, f Format, statement string) error {
	rows, err := conn.QueryContext(ctx, statement)
	if err != nil {
		return err
	}
	defer rows.Close()
	_, err = Write(w, f, rows)
	return err
}

package shell

import (
	"bufio"
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"

	"github.com/mattn/go-isatty"
)

// ErrFailed matches the error of [Run] if statements failed. Each failure has already
// been reported.
var ErrFailed = errors.New("failed")

// Options are the input, the outputs and the format of a shell.
type Options struct {
	// In provides the statements. The shell is interactive if In is os.Stdin, Out is
	// os.Stdout and both are terminals.
	In io.Reader
	// Out receives the rows and the output of commands.
	Out io.Writer
	// Err receives one line for each failure.
	Err io.Writer
	// Format is the first format; empty is Table.
	Format Format
	// HistoryFile stores the lines that were typed interactively, each at once. Only its
	// owner can read it. Several shells may share it. An interactive shell needs it.
	HistoryFile string
}

// Run reads statements and commands from o.In and runs them one after the other on one
// connection of db, until the input ends, .quit is read or ctx ends.
//
// On a terminal it shows a prompt, completes names and keeps a history. Ctrl-C at the
// prompt discards the text typed so far, Ctrl-C during a statement interrupts the
// statement, and Ctrl-D ends Run. The caller must therefore not end ctx on SIGINT. Run
// reports failures and returns nil.
//
// Otherwise the last statement needs no semicolon, and Run continues after a failure. If
// there was a failure, its error matches [ErrFailed]. In JSON, all results are one
// document.
func Run(ctx context.Context, db *sql.DB, o Options) (err error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return fmt.Errorf("open connection: %w", err)
	}
	defer conn.Close()
	s := newSession(conn, o.Out, o.Err, cmp.Or(o.Format, Table))
	defer func() { err = errors.Join(err, s.closeOutput()) }()
	if !interactive(o) {
		s.lines = &stream{reader: bufio.NewReader(o.In)}
		return s.run(ctx)
	}
	editor := newEditor(o.HistoryFile, s.fail, func(line string) (string, []string) { return s.complete(ctx, strings.Join(s.typed, "\n"), line) })
	defer editor.close()
	s.lines, s.interactive, s.hasPager = editor, true, true
	// Between a prompt and a statement, Ctrl-C must not end the process, which would
	// leave the terminal in the editor's mode.
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

// Query runs the statements and commands of one text on one connection of db and writes
// their rows to w. It stops at the first failure and returns it. The last statement needs
// no semicolon. In JSON, all results are one document, which for a text without results is
// an empty array, as in osqueryi.
func Query(ctx context.Context, db *sql.DB, w io.Writer, f Format, text string) (err error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return fmt.Errorf("open connection: %w", err)
	}
	defer conn.Close()
	s := newSession(conn, w, io.Discard, f)
	defer func() { err = errors.Join(err, s.closeOutput()) }()
	s.lines, s.stops = &stream{reader: bufio.NewReader(strings.NewReader(text))}, true
	if err := s.run(ctx); !errors.Is(err, ErrFailed) {
		return err
	}
	return s.failure
}

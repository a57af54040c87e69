package main

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"time"

	"github.com/mattn/go-isatty"

	"github.com/kmodquery/kmodquery/extension/shell"
	"github.com/kmodquery/kmodquery/extension/virtualtable"
)

// answerDrain is how long a statement may take to end after a signal.
const answerDrain = time.Second

var errEndedBySignal = errors.New("ended by a signal")

// overview holds the statements of a query without SQL.
var overview = []struct{ title, sql string }{
	{"Sensors", `SELECT source, state, role, received, lost, store_rows, kernel, reason FROM kernel_module_sensors`},
	{"Latest events", `SELECT datetime(time, 'unixepoch') AS utc, event_name, name, path, origin, result, error, process_name, pid, uid, load_id
		FROM kernel_module_events ORDER BY eid DESC LIMIT 20`},
	{"Latest findings", `SELECT datetime(time, 'unixepoch') AS utc, signature_id, signature_name, severity, external_id, reason, load_id
		FROM kernel_module_findings ORDER BY eid DESC LIMIT 20`},
}

// query runs the SQL of the command line or of stdin. Without either it runs the shell
// if stdin is a terminal, and otherwise shows an overview.
func query(ctx context.Context, c *config, stdin *os.File, stdout, stderr io.Writer, report *log.Logger) (err error) {
	a, err := open(ctx, c, report)
	switch {
	case err != nil && ctx.Err() != nil:
		return errEndedBySignal
	case err != nil:
		return err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	<-a.started

	db, err := virtualtable.Open(ctx, a.plugins...)
	if err != nil {
		return fmt.Errorf("attach the tables: %w", err)
	}
	defer db.Close()

	// A read of stdin does not end with ctx.
	answered := make(chan error, 1)
	go func() { answered <- answer(ctx, c, db, stdin, stdout, stderr) }()
	select {
	case err := <-answered:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-answered:
		return err
	case <-time.After(answerDrain):
		return errEndedBySignal
	}
}

// answer runs the SQL of the command line or of stdin.
func answer(ctx context.Context, c *config, db *sql.DB, stdin *os.File, stdout, stderr io.Writer) error {
	if len(c.args) == 1 {
		return shell.Query(ctx, db, stdout, c.format, c.args[0])
	}
	var in io.Reader = stdin
	if !isatty.IsTerminal(stdin.Fd()) {
		statements := bufio.NewReader(stdin)
		if _, err := statements.Peek(1); err != nil {
			return showOverview(ctx, db, stdout, c.format)
		}
		in = statements
	}
	err := shell.Run(ctx, db, shell.Options{
		In:          in,
		Out:         stdout,
		Err:         stderr,
		Format:      c.format,
		HistoryFile: filepath.Join(c.stateDir, "history"),
	})
	if errors.Is(err, shell.ErrFailed) {
		return errReported
	}
	return err
}

func showOverview(ctx context.Context, db *sql.DB, stdout io.Writer, format shell.Format) error {
	for _, part := range overview {
		fmt.Fprintf(stdout, "%s\n", part.title)
		if err := shell.Query(ctx, db, stdout, format, part.sql); err != nil {
			return err
		}
		fmt.Fprintln(stdout)
	}
	return nil
}

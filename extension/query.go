package main

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
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

// overview holds the statements of a query without SQL. Beside other findings it omits
// TRC-1017, which every load has. Its lines fit a terminal of 120 columns, unless a sensor
// has failed: then its whole reason is shown.
var overview = []struct{ title, table, sql string }{
	{"Latest loads", "kernel_module_loads", `SELECT substr(utc, 6) AS utc, outcome, ` + cut("coalesce(name, '')", 12) + ` AS name, ` +
		cutStart("coalesce(nullif(path, ''), origin, '')", 18) + ` AS "from", signature_status AS signature, ` +
		cut("coalesce(process_name, '')", 10) + ` AS by, ` + cut("replace(coalesce(findings, ''), ',TRC-1017', '')", 24) + ` AS findings
		FROM kernel_module_loads ORDER BY eid DESC LIMIT 20`},
	{"Sensors", "kernel_module_sensors", `SELECT source, state, role, received, lost,
		CASE WHEN state = 'failed' THEN reason ELSE ` + cut("coalesce(reason, '')", 50) + ` END AS reason FROM kernel_module_sensors`},
}

// cut returns SQL that shortens a text to some characters, and cutStart likewise from the left.
func cut(text string, to int) string {
	return fmt.Sprintf("CASE WHEN length(%s) > %d THEN substr(%s, 1, %d) || '..' ELSE %s END", text, to, text, to-2, text)
}

func cutStart(text string, to int) string {
	return fmt.Sprintf("CASE WHEN length(%s) > %d THEN '..' || substr(%s, %d) ELSE %s END", text, to, text, 2-to, text)
}

// query runs the SQL of the command line or of stdin. Without either it runs the shell
// if stdin is a terminal, and otherwise shows an overview.
func query(ctx context.Context, c *config, f files) (err error) {
	if os.Geteuid() != 0 && c.stateDir == defaultStateDir() {
		f.report.Printf("this user's own event store is in %s; run it as root for the events of this host", c.stateDir)
	}
	if c.isTemporary {
		dir, err := os.MkdirTemp("", "kmodquery-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		c.stateDir = dir
		f.report.Printf("the event store is in %s until this command ends", dir)
	} else if _, err := os.Stat(c.stateDir); errors.Is(err, fs.ErrNotExist) {
		f.report.Printf("creating an event store in %s; with --temp it is a temporary one", c.stateDir)
	}
	a, err := open(ctx, c, f.report)
	switch {
	case err != nil && ctx.Err() != nil:
		return errEndedBySignal
	case err != nil:
		return err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	<-a.started

	db, err := virtualtable.OpenShell(ctx, withCoreTables(a.plugins)...)
	if err != nil {
		return fmt.Errorf("attach the tables: %w", err)
	}
	defer db.Close()

	// A read of stdin does not end with ctx.
	answered := make(chan error, 1)
	go func() { answered <- answer(ctx, c, db, f) }()
	ended := func(err error) error {
		if err != nil && ctx.Err() != nil {
			return errEndedBySignal
		}
		return err
	}
	select {
	case err := <-answered:
		return ended(err)
	case <-ctx.Done():
	}
	select {
	case err := <-answered:
		return ended(err)
	case <-time.After(answerDrain):
		return errEndedBySignal
	}
}

// answer runs the SQL of the command line or of stdin.
func answer(ctx context.Context, c *config, db *sql.DB, f files) error {
	if len(c.args) == 1 {
		return shell.Query(ctx, db, f.stdout, c.format, c.args[0])
	}
	var in io.Reader = f.stdin
	if !isatty.IsTerminal(f.stdin.Fd()) {
		statements := bufio.NewReader(f.stdin)
		if _, err := statements.Peek(1); err != nil {
			return showOverview(ctx, db, f.stdout, c.format)
		}
		in = statements
	}
	err := shell.Run(ctx, db, shell.Options{
		In:          in,
		Out:         f.stdout,
		Err:         f.stderr,
		Format:      c.format,
		HistoryFile: filepath.Join(c.stateDir, "history"),
	})
	if errors.Is(err, shell.ErrFailed) {
		return errReported
	}
	return err
}

// showOverview shows each part below its title. In JSON it shows one object with the rows
// of each table.
func showOverview(ctx context.Context, db *sql.DB, stdout io.Writer, format shell.Format) error {
	for i, part := range overview {
		switch {
		case format != shell.JSON:
			fmt.Fprintln(stdout, part.title)
		case i == 0:
			fmt.Fprintf(stdout, "{%q:\n", part.table)
		default:
			fmt.Fprintf(stdout, ",%q:\n", part.table)
		}
		if err := shell.Query(ctx, db, stdout, format, part.sql); err != nil {
			return err
		}
		if format != shell.JSON {
			fmt.Fprintln(stdout)
		}
	}
	if format == shell.JSON {
		fmt.Fprintln(stdout, "}")
	}
	return nil
}

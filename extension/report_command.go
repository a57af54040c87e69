package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/mattn/go-isatty"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/extension/report"
	"github.com/kmodquery/kmodquery/extension/virtualtable"
)

// writeReport is the action of the command report.
func writeReport(ctx context.Context, c *config, f files) (err error) {
	if file, ok := f.stdout.(*os.File); ok && isatty.IsTerminal(file.Fd()) {
		return errors.New("the report is a page of HTML; write it to a file: kmodquery.ext report >report.html")
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
	host, _ := os.Hostname() // the page says that it is unknown
	if host == "" {
		host = "an unknown host"
	}
	now := time.Now()
	return report.Write(ctx, db, f.stdout, report.Options{
		Host: host, Kernel: c.platform.kernelRelease(), Version: kmodquery.Version, Since: now.Add(-c.reportSince), Now: now,
	})
}

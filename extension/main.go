package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
)

// Exit statuses.
const (
	exitFailed = 1 // something that should have worked did not
	exitUsage  = 2 // the command line makes no sense
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is the command with everything that it touches given to it. Its result
// is the exit status.
func run(ctx context.Context, args []string, stdin *os.File, stdout, stderr io.Writer) int {
	report := log.New(stderr, "kmodquery: ", 0)
	c, err := parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		usage(stdout)
		return 0
	case err != nil:
		report.Printf("%s (see --help)", oneLine(err))
		return exitUsage
	case c.version:
		fmt.Fprintln(stdout, "kmodquery.ext", kmodquery.Version)
		return 0
	}
	if c.command == "query" {
		err = query(ctx, c, stdin, stdout, report)
	} else {
		err = serve(ctx, c, report)
	}
	if err != nil {
		report.Print(oneLine(err))
		return exitFailed
	}
	return 0
}

func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }

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

	"github.com/mattn/go-isatty"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
)

// Exit statuses.
const (
	exitFailed = 1 // something that should have worked did not
	exitUsage  = 2 // the command line makes no sense
)

// errReported says that each failure already had its line.
var errReported = errors.New("failed")

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
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
	case c.command == "--version":
		fmt.Fprintln(stdout, "kmodquery.ext", kmodquery.Version)
		return 0
	}
	signals := []os.Signal{unix.SIGTERM, unix.SIGINT}
	if c.command == "query" && len(c.args) == 0 && isatty.IsTerminal(stdin.Fd()) {
		signals = signals[:1] // at a prompt Ctrl-C ends a statement, not the shell
	}
	ctx, stop := signal.NotifyContext(ctx, signals...)
	defer stop()
	switch c.command {
	case "query":
		err = query(ctx, c, stdin, stdout, stderr, report)
	case "detach":
		err = detach(ctx, c, stdout, report)
	default:
		err = serve(ctx, c, report)
	}
	switch {
	case errors.Is(err, errReported):
		return exitFailed
	case err != nil:
		report.Print(oneLine(err))
		return exitFailed
	default:
		return 0
	}
}

func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }

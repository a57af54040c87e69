package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"time"

	"github.com/mattn/go-isatty"
	"golang.org/x/sys/unix"
)

// Exit statuses.
const (
	exitFailed = 1 // the command failed
	// exitUsage means that the command line or the configuration is invalid. It is
	// sysexits' EX_CONFIG, for which the unit is not restarted. A panic ends a Go program
	// with 2.
	exitUsage = 78
)

// exitTimeout is how long the process may take to end after a signal. systemd kills the
// service after TimeoutStopSec=30.
const exitTimeout = 25 * time.Second

// boundExit calls exit if ended is not called within exitTimeout after the end of ctx,
// because a system call hangs, such as one of the store's.
func boundExit(ctx context.Context, exit func()) (ended func()) {
	running, ended := context.WithCancel(context.Background())
	context.AfterFunc(ctx, func() {
		select {
		case <-running.Done():
		case <-time.After(exitTimeout):
			exit()
		}
	})
	return ended
}

// errReported means that each failure has been reported.
var errReported = errors.New("failed")

// An exitStatus is the status with which a command ends that has reported all.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

func main() {
	log.SetOutput(lineWriter{os.Stderr}) // for the messages of libraries
	p := hostPlatform()
	if p.memoryLimit != nil {
		limitMemory(p.memoryLimit())
	}
	os.Exit(run(context.Background(), p, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// limitMemory makes the runtime collect garbage more often as its memory approaches three
// quarters of the bytes that the host lets this process use. The rest is for SQLite and the
// ring buffers in the kernel. A limit that the user sets as GOMEMLIMIT stays.
func limitMemory(bytes int64) {
	if _, isSet := os.LookupEnv("GOMEMLIMIT"); !isSet && bytes > 0 {
		debug.SetMemoryLimit(bytes / 4 * 3)
	}
}

// run runs the command with these arguments and files. It returns the exit status.
func run(ctx context.Context, p *platform, args []string, stdin *os.File, stdout, stderr io.Writer) int {
	report := newReport(stderr)
	c, err := parse(p, args)
	if err != nil {
		report.Printf("%s (see --help)", err)
		return exitUsage
	}
	if c.run == nil {
		fmt.Fprint(stdout, c.printed.String())
		return 0
	}
	for _, unknown := range c.unknown {
		if c.command == "doctor" {
			break // it has them in its results
		}
		// Others belong to a container image, or to a program around this one.
		if strings.HasPrefix(c.command, "config ") || strings.Contains(unknown, "nearest") {
			report.Print(unknown)
		}
	}
	if c.command != "query" && c.command != "watch" {
		// Go ends a process whose stdout or stderr has lost its reader, as when the
		// reader of a log restarts. Ignoring the signal would also reach the programs
		// that this one starts.
		signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)
	}
	if c.mistake != nil && c.command != "doctor" {
		report.Printf("%v; nothing is recorded", c.mistake)
	}
	signals := []os.Signal{unix.SIGTERM, unix.SIGINT}
	if c.command == "query" && len(c.args) == 0 && isatty.IsTerminal(stdin.Fd()) {
		signals = signals[:1] // at a prompt Ctrl-C ends a statement, not the shell
	}
	ctx, stop := signal.NotifyContext(ctx, signals...)
	defer stop()
	defer boundExit(ctx, func() {
		report.Printf("the process has not ended %v after a signal; events that wait in memory are not stored", exitTimeout)
		os.Exit(exitFailed)
	})()
	err = c.run(ctx, c, files{stdin, stdout, stderr, report})
	if err == nil {
		return 0
	}
	var status exitStatus
	if errors.As(err, &status) {
		return int(status)
	}
	if !errors.Is(err, errReported) {
		report.Print(err)
	}
	return exitFailed
}

// Command run runs go test and shows its progress: a line for each package that has
// ended, for each guest and for each test that a guest has run. At the end it prints
// the failures and the durations.
//
//	go run ./test/run GO-TEST-ARGUMENTS [-- GO-TEST-ARGUMENTS…]
//
// Each list of arguments is one go test. They run one after the other, even if one
// fails. The exit status is 1 if any of them failed.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "run:", err)
		os.Exit(1)
	}
}

// errFailed is the error of a run in which a test failed.
var errFailed = errors.New("there are failures")

func run(ctx context.Context, args []string, out io.Writer) error {
	s := newSummary(out)
	failed := false
	for len(args) > 0 {
		one := args
		if end := slices.Index(args, "--"); end >= 0 {
			one, args = args[:end], args[end+1:]
		} else {
			args = nil
		}
		err := goTest(ctx, one, s)
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			return err
		}
		failed = failed || err != nil
	}
	if err := s.print(); err != nil {
		return err
	}
	if failed {
		return errFailed
	}
	return nil
}

// goTest runs one go test and passes its events to the summary. The error is that of
// exec.Cmd.
func goTest(ctx context.Context, args []string, s *summary) error {
	cmd := exec.CommandContext(ctx, "go", append([]string{"test", "-json"}, args...)...)
	// On SIGTERM the tests end together with their guests.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = time.Minute
	cmd.Stderr = os.Stderr
	output, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("make a pipe: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start go test: %w", err)
	}
	lines := bufio.NewReader(output)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			break
		}
		var e event
		if json.Unmarshal(line, &e) != nil {
			s.printf("%s", line)
			continue
		}
		s.add(&e)
	}
	return cmd.Wait()
}

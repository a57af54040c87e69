//go:build linux

package vm

import (
	"bytes"
	"errors"
	"io"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// Test boots the kernel, runs in it the calling package's own tests whose
// names match the regular expression (as go test -run takes it; the tests'
// names begin with TestGuest), and repeats every verdict with its log as a
// subtest of t; with go test -v it also says how a test ended as soon as it did.
// The package's TestMain must call guest.Main. A run in which no test ran, or every
// one was skipped, is a failure.
//
// Where the kernel, or what the host needs, cannot be had, the test fails when
// the environment has CI set, and is skipped with the reason otherwise.
//
// Call t.Parallel before it to boot as many VMs at a time as go test -parallel
// allows; of those that are busy only as many run as the host has processors for.
func Test(t *testing.T, kernel Kernel, pattern string, options Options) {
	t.Helper()
	ctx := t.Context()
	_, err := kernel.Fetch(ctx, t.Logf)
	need(t, err)
	init, err := testBinary(ctx, kernel.Arch, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if options.Busy {
		busy <- struct{}{}
		defer func() { <-busy }()
	}
	options.Timeout = defaultTo(options.Timeout, 5*time.Minute)
	args := []string{
		"/init", "-test.run=" + pattern, "-test.v=test2json", "-test.count=1",
		// The guest's own limit strikes first and prints where its tests hang.
		"-test.timeout=" + (options.Timeout * 3 / 4).String(),
	}
	if testing.Short() {
		args = append(args, "-test.short")
	}
	var output bytes.Buffer
	lines := io.Writer(&output)
	if testing.Verbose() {
		lines = io.MultiWriter(&output, progress(t.Logf))
	}
	machine := Machine{
		Options: options,
		Kernel:  kernel,
		Init:    init,
		Args:    args,
		Output:  lines,
		Log:     t.Logf,
	}
	result, err := machine.Run(ctx)
	report := parseReport(output.String())
	for _, v := range report.tests {
		repeat(t, v)
	}
	if err != nil {
		t.Fatalf("kernel %s: %v\noutput of no test:\n%s\nend of the console:\n%s", kernel, err, report.rest.String(), consoleOf(err))
	}
	t.Logf("kernel %s: booted in %.1f s, ended after %.1f s", result.Release, result.Boot.Seconds(), result.Total.Seconds())
	if problem := report.problem(result.ExitCode); problem != "" {
		t.Errorf("kernel %s, tests %q: %s\noutput of no test:\n%s\nend of the console:\n%s", kernel, pattern, problem, report.rest.String(), result.Console)
	}
}

// busy has a place for each VM that keeps two processors of the host's busy. Two
// that share them take more than twice as long: a virtual processor that waits for
// a real one may hold what the others wait for.
var busy = make(chan struct{}, max(1, runtime.NumCPU()/2))

// need ends the test when the host cannot provide a VM.
func need(t *testing.T, err error) {
	t.Helper()
	if err == nil {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatal(err)
	}
	t.Skip(err)
}

// repeat reports a guest's verdict as a test of the host.
func repeat(t *testing.T, v *verdict) {
	t.Helper()
	t.Run(v.name, func(t *testing.T) {
		t.Helper()
		for _, s := range v.sub {
			repeat(t, s)
		}
		t.Logf("in the guest: %s %s\n%s", v.status, v.took, strings.TrimRight(v.log.String(), "\n"))
		switch v.status {
		case "PASS":
		case "SKIP":
			t.SkipNow()
		case "FAIL":
			t.Fail()
		default:
			t.Error("the guest stopped before this test ended")
		}
	})
}

func consoleOf(err error) string {
	var stopped *StoppedError
	var panicked *PanicError
	switch {
	case errors.As(err, &stopped):
		return stopped.Console
	case errors.As(err, &panicked):
		return panicked.Console
	}
	return ""
}

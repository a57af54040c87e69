//go:build linux

package vm

import (
	"bytes"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kmodquery/kmodquery/test/suite"
	"github.com/kmodquery/kmodquery/test/vm/guest"
)

// A Step is one run of a guest's tests.
type Step struct {
	Name    string   // of the subtest that reports its verdicts
	Pattern string   // of the names of its tests, as go test -run takes it
	Skip    string   // of the names of the tests to leave out, as go test -skip takes it; empty leaves out none
	Env     []string // additions to its environment, as NAME=value
}

// Test boots the kernel and runs in it those tests of the calling package whose names
// match the regular expression (as go test -run takes it; the names begin with
// TestGuest). It repeats every verdict with its log as a subtest of t. With go test -v
// it also logs how a test ended as soon as it ends. The package's TestMain must call
// guest.Main or guest.Init. A run is a failure if no test ran or every test was
// skipped.
//
// With go test -short it skips. If the kernel or something that the host needs is not
// available, the test fails when the environment has CI set; otherwise it is skipped
// with the reason.
//
// Call t.Parallel before it to boot several VMs at a time, as many as the host has
// processors for the VMs' virtual ones.
func Test(t *testing.T, kernel Kernel, pattern string, options Options) {
	t.Helper()
	TestStep(t, kernel, Step{Pattern: pattern}, options)
}

// TestStep is Test with all options of a Step. The step's Name is not used.
func TestStep(t *testing.T, kernel Kernel, step Step, options Options) {
	t.Helper()
	for i, r := range boot(t, kernel, options, []Step{step}) {
		judge(t, kernel, r, i)
	}
}

// TestSteps is Test with several runs in one VM, one after the other, each in a process
// of its own. Changes that a run makes in the kernel stay for the following runs.
func TestSteps(t *testing.T, kernel Kernel, steps []Step, options Options) {
	t.Helper()
	for i, r := range boot(t, kernel, options, steps) {
		t.Run(steps[i].Name, func(t *testing.T) { judge(t, kernel, r, i) })
	}
}

// judge repeats a run's verdicts, and fails t if the run has a further problem.
func judge(t *testing.T, kernel Kernel, r *report, i int) {
	t.Helper()
	for _, v := range r.tests {
		repeat(t, v)
	}
	if problem := r.problem(); problem != "" {
		t.Errorf("kernel %s, run %d: %s\noutput outside of tests:\n%s", kernel, i+1, problem, r.rest.String())
	}
}

// boot returns a report of each step. Its own failures do not end the test, because the
// reports have more details.
func boot(t *testing.T, kernel Kernel, options Options, steps []Step) []*report {
	t.Helper()
	if testing.Short() {
		t.Skip("boots a VM")
	}
	ctx := t.Context()
	_, err := kernel.Fetch(ctx, t.Logf)
	need(t, err)
	init, err := testBinary(ctx, kernel.Arch)
	if err != nil {
		t.Fatal(err)
	}
	options.Timeout = defaultTo(options.Timeout, 5*time.Minute)
	options.CPUs = defaultTo(options.CPUs, 1)
	var runs []guest.Run
	for _, step := range steps {
		runs = append(runs, guest.Run{
			Args: []string{
				"/init", "-test.run=" + step.Pattern, "-test.skip=" + step.Skip, "-test.v=test2json", "-test.count=1",
				// The guest's own limit expires first and prints where its tests hang.
				"-test.timeout=" + (options.Timeout * 3 / 4).String(),
			},
			Env: slices.Concat(options.Env, []string{suite.Env + "=" + os.Getenv(suite.Env)}, step.Env),
		})
	}
	var output bytes.Buffer
	lines := io.Writer(&output)
	if testing.Verbose() {
		lines = io.MultiWriter(&output, &progress{kernel: kernel, logf: t.Logf})
	}
	options.Env = runs[0].Env
	machine := Machine{
		Options: options,
		Kernel:  kernel,
		Init:    init,
		Args:    runs[0].Args,
		Then:    runs[1:],
		Output:  lines,
		Log:     t.Logf,
	}
	giveBack := processors.take(options.CPUs, options.Timeout)
	result, err := machine.Run(ctx)
	giveBack()
	var reports []*report
	for text := range strings.SplitSeq(output.String(), guest.NextLine) {
		reports = append(reports, parseReport(text))
	}
	if err != nil {
		t.Errorf("kernel %s: %v\nend of the console:\n%s", kernel, err, consoleOf(err))
		return reports
	}
	t.Logf("guest %s: booted in %.1f s, ended after %.1f s, used %.1f s of the processors (kernel %s)",
		kernel, result.Boot.Seconds(), result.Total.Seconds(), result.CPU.Seconds(), result.Release)
	if result.ExitCode != 0 {
		console := result.Console
		if slices.ContainsFunc(reports, (*report).hasFailures) {
			// The tests say why they failed.
			console = console[max(0, len(console)-2000):]
		}
		t.Errorf("kernel %s: the tests exited with %d\nend of the console:\n%s", kernel, result.ExitCode, console)
	}
	return reports
}

// need ends the test if the host cannot provide a VM.
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

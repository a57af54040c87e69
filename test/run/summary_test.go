package main

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSummaryShowsGuestsFailuresAndTheSlowest(t *testing.T) {
	var out strings.Builder
	s := newSummary(&out)
	const vmTest = "TestKernels/5.10"
	for _, e := range []event{
		{Action: "output", Package: "p/a", Test: "TestGood", Output: "output of a good test\n"},
		{Action: "pass", Package: "p/a", Test: "TestGood", Elapsed: 2},
		{Action: "pass", Package: "p/a", Test: "TestGood/sub", Elapsed: 1},
		{Action: "pass", Package: "p/a", Elapsed: 2.5},
		{Action: "output", Package: "p/b", Test: "TestBad", Output: "why it failed\n"},
		{Action: "output", Package: "p/b", Test: "TestBad/sub", Output: strings.Repeat("noise\n", 5000)},
		{Action: "output", Package: "p/b", Test: "TestBad/sub", Output: "    Error Trace: x_test.go:7\n" + strings.Repeat("noise\n", 5000)},
		{Action: "fail", Package: "p/b", Test: "TestBad/sub", Elapsed: 1},
		{Action: "fail", Package: "p/b", Test: "TestBad", Elapsed: 1},
		{Action: "fail", Package: "p/b", Elapsed: 1.5},
		{Action: "output", Package: "p/d", Test: "TestSkipped", Output: "=== RUN   TestSkipped\n"},
		{Action: "output", Package: "p/d", Test: "TestSkipped", Output: "    x_test.go:7: no strace here\n"},
		{Action: "output", Package: "p/d", Test: "TestSkipped", Output: "--- SKIP: TestSkipped (0.00s)\n"},
		{Action: "skip", Package: "p/d", Test: "TestSkipped"},
		{Action: "output", Package: "p/c", Test: vmTest, Output: "    x.go:1: guest 5.10: PASS TestGuestX/sub 3.00s\n"},
		{Action: "output", Package: "p/c", Test: vmTest, Output: "    x.go:1: guest 5.10: PASS TestGuestX 4.00s\n"},
		{Action: "output", Package: "p/c", Test: vmTest, Output: "    x.go:1: guest 5.10: SKIP TestGuestY 0.01s\n"},
		{Action: "output", Package: "p/c", Test: vmTest, Output: "    x.go:1: guest 5.10: booted in 6.1 s, ended after 20.4 s, used 15.2 s of the processors (kernel 5.10.0)\n"},
	} {
		s.add(&e)
	}
	require.NoError(t, s.print())
	text := out.String()
	require.Contains(t, text, "ok   p/a 2.5 s\n")
	require.NotContains(t, text, "output of a good test")
	require.Contains(t, text, "FAIL p/b TestBad\nwhy it failed\n")
	require.NotContains(t, text, "WHY p/b TestBad\n")
	_, why, _ := strings.Cut(text, "WHY p/b TestBad/sub\n")
	why, _, found := strings.Cut(why, "FAIL p/b TestBad/sub\n")
	require.True(t, found)
	require.Contains(t, why, "Error Trace: x_test.go:7")
	require.Less(t, len(why), 2*maxExcerpt)
	require.Contains(t, text, vmTest+": TestGuestX in guest 5.10 4.0 s\n")
	require.NotContains(t, text, "TestGuestX/sub")
	require.Regexp(t, `TestKernels/5\.10 +6\.1 +2 +20\.4 +15\.2\n`, text)
	require.Regexp(t, `1 boots +6\.1 +2 +20\.4 +15\.2\n`, text)
	require.Regexp(t, `slowest packages +seconds\np/a +2\.5\np/b +1\.5\n`, text)
	require.Regexp(t, `slowest tests +seconds\nguest 5\.10 TestGuestX +4\.0\na TestGood +2\.0\nb TestBad +1\.0\n`, text)
	require.Contains(t, text, "SKIP p/d TestSkipped: x_test.go:7: no strace here\n")
	require.Contains(t, text, "2 passed, 3 failed, 1 skipped\n")
}

func TestExcerptOfALongOutputHasTheBeginningOfEachLog(t *testing.T) {
	long := strings.Repeat("        x"+strings.Repeat("y", 500)+"\n", 20)
	text := excerpt("    x_test.go:1: seed\n    x_test.go:2: rows differ:\n" + long + "    x_test.go:3: it also failed\n" + long + "--- FAIL: TestX (0.00s)\n")
	require.Contains(t, text, "x_test.go:2: rows differ:\n")
	require.Contains(t, text, "x_test.go:3: it also failed\n")
	require.Less(t, len(text), maxExcerpt)
}

func TestRunsEachListAndReportsTheFailureOfAny(t *testing.T) {
	var out strings.Builder
	err := run(context.Background(), []string{"./no-such-package", "--", "-run", "^TestNothing$", "../suite"}, &out)
	require.ErrorIs(t, err, errFailed)
	require.Contains(t, out.String(), "ok   github.com/kmodquery/kmodquery/test/suite ")
}

//go:build linux

package vm

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// flat lists verdicts as "parent>name status took: log".
func flat(prefix string, verdicts []*verdict) []string {
	var all []string
	for _, v := range verdicts {
		all = append(all, prefix+v.name+" "+v.status+" "+v.took+": "+v.log.String())
		all = append(all, flat(prefix+v.name+">", v.sub)...)
	}
	return all
}

func TestParseReport(t *testing.T) {
	for name, test := range map[string]struct {
		output []string
		want   []string
		rest   string
	}{
		"pass, fail and skip": {
			output: []string{
				mark + "=== RUN   TestA", "    a_test.go:1: said", mark + "--- PASS: TestA (0.25s)",
				mark + "=== RUN   TestB", mark + "--- FAIL: TestB (0.00s)",
				mark + "=== RUN   TestC", "    c_test.go:1: why", mark + "--- SKIP: TestC (0.00s)",
				mark + "=== NAME  ", mark + "FAIL",
			},
			want: []string{"TestA PASS 0.25s:     a_test.go:1: said\n", "TestB FAIL 0.00s: ", "TestC SKIP 0.00s:     c_test.go:1: why\n"},
			rest: "FAIL\n",
		},
		"subtests, one with a slash in its own name": {
			output: []string{
				mark + "=== RUN   TestA", mark + "=== RUN   TestA/sub", mark + "    --- PASS: TestA/sub (0.00s)",
				mark + "=== RUN   TestA/sub/x", mark + "    --- PASS: TestA/sub/x (0.00s)",
				mark + "--- PASS: TestA (0.00s)",
			},
			want: []string{"TestA PASS 0.00s: ", "TestA>sub PASS 0.00s: ", "TestA>sub/x PASS 0.00s: "},
		},
		"parallel tests": {
			output: []string{
				mark + "=== RUN   TestA", mark + "=== PAUSE TestA", mark + "=== RUN   TestB", mark + "=== PAUSE TestB",
				mark + "=== CONT  TestA", "a", mark + "=== CONT  TestB", "b", mark + "=== NAME  TestA", "a again",
				mark + "--- PASS: TestB (0.00s)", mark + "--- PASS: TestA (0.00s)",
			},
			want: []string{"TestA PASS 0.00s: a\na again\n", "TestB PASS 0.00s: b\n"},
		},
		"a mark after an unfinished line": {
			output: []string{mark + "=== RUN   TestA", "half" + mark + "--- PASS: TestA (0.00s)"},
			want:   []string{"TestA PASS 0.00s: half"},
		},
		"a crash in a test": {
			output: []string{mark + "=== RUN   TestA", "panic: boom"},
			want:   []string{"TestA  : panic: boom\n"},
		},
		"nothing but main's own words": {
			output: []string{"testing: warning: no tests to run", "PASS"},
			rest:   "testing: warning: no tests to run\nPASS\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := parseReport(strings.Join(test.output, "\n") + "\n")
			require.Equal(t, test.want, flat("", r.tests))
			require.Equal(t, test.rest, r.rest.String())
		})
	}
}

func TestReportProblem(t *testing.T) {
	const (
		pass = mark + "=== RUN   TestA\n" + mark + "--- PASS: TestA (0.00s)\n"
		skip = mark + "=== RUN   TestB\n" + mark + "--- SKIP: TestB (0.00s)\n"
	)
	for name, test := range map[string]struct {
		output string
		want   string
	}{
		"a test passed":     {output: pass + skip, want: ""},
		"no test":           {output: "PASS\n", want: "no test ran"},
		"nothing but skips": {output: skip, want: "no test ran"},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, test.want, parseReport(test.output).problem())
		})
	}
	require.False(t, parseReport(pass+skip).hasFailures())
	require.True(t, parseReport(pass+mark+"=== RUN   TestC\n"+mark+"--- FAIL: TestC (0.00s)\n").hasFailures())
}

package main

import (
	"cmp"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// An event is a line of go test -json.
type event struct {
	Action  string
	Package string
	Test    string
	Elapsed float64 // seconds
	Output  string
}

// A timing is how long something took.
type timing struct {
	name    string
	seconds float64
}

// A boot is one run of a guest.
type boot struct {
	test               string // that booted it
	boot, seconds, cpu float64
	tests              int // that ran in it
}

// A summary collects the results of go test.
type summary struct {
	out      io.Writer
	began    time.Time
	output   map[string]*strings.Builder // of a test that has not passed, by package and name
	packages []timing
	tests    []timing // of the host and of guests
	boots    []boot
	inGuest  map[string]int // tests that have run, by the test that booted the guest
	failed   []string
	causes   []string // why tests without failed subtests failed
	skipped  []string // with the reason
	passed   int
}

func newSummary(out io.Writer) *summary {
	return &summary{out: out, began: time.Now(), output: map[string]*strings.Builder{}, inGuest: map[string]int{}}
}

// printf prints a line with the time since the start.
func (s *summary) printf(format string, args ...any) {
	passed := time.Since(s.began)
	text := strings.TrimRight(fmt.Sprintf(format, args...), "\n")
	fmt.Fprintf(s.out, "%02d:%02d %s\n", int(passed.Minutes()), int(passed.Seconds())%60, text)
}

// The lines that package vm logs (in progress.go and testing.go).
var (
	guestTest = regexp.MustCompile(`guest (\S+): (PASS|FAIL|SKIP) (\S+) ([0-9.]+)s\n`)
	guestEnd  = regexp.MustCompile(`guest (\S+): booted in ([0-9.]+) s, ended after ([0-9.]+) s, used ([0-9.]+) s`)
)

func (s *summary) add(e *event) {
	key := e.Package + " " + e.Test
	switch e.Action {
	case "output", "build-output":
		if s.output[key] == nil {
			s.output[key] = &strings.Builder{}
		}
		s.output[key].WriteString(e.Output)
		s.addGuest(e)
		if e.Action == "build-output" {
			s.printf("%s", e.Output)
		}
	case "pass":
		s.end(e)
		delete(s.output, key)
		if e.Test != "" {
			s.passed++
		}
	case "skip":
		s.end(e)
		if text := s.output[key]; text != nil && e.Test != "" && !strings.Contains(text.String(), elsewhere) {
			s.skipped = append(s.skipped, key+": "+reason(text.String()))
		}
		delete(s.output, key)
	case "fail":
		s.end(e)
		isOwn := !slices.ContainsFunc(s.failed, func(name string) bool { return strings.HasPrefix(name, key+"/") })
		s.failed = append(s.failed, strings.TrimSpace(key))
		s.printf("FAIL %s", strings.TrimSpace(key))
		if text := s.output[key]; text != nil {
			fmt.Fprint(s.out, text.String())
			if isOwn && e.Test != "" {
				s.causes = append(s.causes, fmt.Sprintf("WHY %s\n%s", key, excerpt(text.String())))
			}
		}
		delete(s.output, key)
	}
}

// maxExcerpt is the size of an excerpt in bytes.
const maxExcerpt = 3000

var (
	// failure begins what testify, testscript and a panic print.
	failure = regexp.MustCompile(`Error Trace:|FAIL: [^\n]*\.txtar?:|panic:`)
	// logged begins what a test logs or reports with t.Errorf.
	logged = regexp.MustCompile(`^\s+\w+_test\.go:\d+: `)
)

// excerpt returns the part of a failed test's output that is likely to say why: from its
// first failure on, or else the beginning of each of its logs.
func excerpt(output string) string {
	if len(output) <= maxExcerpt {
		return output
	}
	begin := 0
	if at := failure.FindStringIndex(output); at != nil {
		// Some lines before it belong to it: a script's command, the line of the test.
		begin = max(0, at[0]-maxExcerpt/3)
	} else if heads := logHeads(output); heads != "" {
		output = heads
	}
	end := min(len(output), begin+maxExcerpt)
	return strings.ToValidUTF8(output[begin:end], "")
}

// logHeads returns the first lines of each of a test's logs.
func logHeads(output string) string {
	const lines, width = 3, 300
	var heads strings.Builder
	left := 0
	for line := range strings.Lines(output) {
		if logged.MatchString(line) {
			left = lines
		}
		if left > 0 {
			left--
			line = strings.TrimSuffix(line, "\n")
			heads.WriteString(line[:min(len(line), width)] + "\n")
		}
	}
	return heads.String()
}

// elsewhere is in the reason of tests that run in a guest and are skipped on the host.
const elsewhere = "runs inside a test VM"

// reason returns the log of a skipped test as one line.
func reason(output string) string {
	var lines []string
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "=== ") && !strings.HasPrefix(line, "--- ") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, " ")
}

func (s *summary) end(e *event) {
	if e.Test == "" {
		if e.Action == "pass" {
			s.printf("ok   %s %.1f s", e.Package, e.Elapsed)
		}
		s.packages = append(s.packages, timing{e.Package, e.Elapsed})
		return
	}
	// A subtest's time is included in its test's. A test that boots guests also waits
	// for processors.
	if !strings.Contains(e.Test, "/") && e.Elapsed > 0 {
		s.tests = append(s.tests, timing{lastElement(e.Package) + " " + e.Test, e.Elapsed})
	}
}

func (s *summary) addGuest(e *event) {
	if m := guestTest.FindStringSubmatch(e.Output); m != nil && !strings.Contains(m[3], "/") {
		seconds, _ := strconv.ParseFloat(m[4], 64)
		s.tests = append(s.tests, timing{"guest " + m[1] + " " + m[3], seconds})
		s.inGuest[e.Package+e.Test]++
		if m[2] != "SKIP" {
			s.printf("     %s: %s in guest %s %.1f s", e.Test, m[3], m[1], seconds)
		}
	}
	if m := guestEnd.FindStringSubmatch(e.Output); m != nil {
		booted, _ := strconv.ParseFloat(m[2], 64)
		seconds, _ := strconv.ParseFloat(m[3], 64)
		cpu, _ := strconv.ParseFloat(m[4], 64)
		s.boots = append(s.boots, boot{e.Test, booted, seconds, cpu, s.inGuest[e.Package+e.Test]})
		s.printf("     %s: guest %s ended after %.0f s", e.Test, m[1], seconds)
	}
}

func lastElement(path string) string { return path[strings.LastIndexByte(path, '/')+1:] }

// shown is how many of the slowest tests, and of the causes of failures, are printed.
const shown = 10

// print prints the tables and the failures. The error is that of writing them.
func (s *summary) print() error {
	longest := func(a, b timing) int { return cmp.Compare(b.seconds, a.seconds) }
	w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	if len(s.boots) > 0 {
		slices.SortFunc(s.boots, func(a, b boot) int { return cmp.Compare(b.seconds, a.seconds) })
		var sum boot
		fmt.Fprintln(w, "\nguest\tboot s\ttests\tseconds\tof the processors")
		for _, b := range s.boots {
			sum.boot, sum.seconds, sum.cpu, sum.tests = sum.boot+b.boot, sum.seconds+b.seconds, sum.cpu+b.cpu, sum.tests+b.tests
			fmt.Fprintf(w, "%s\t%.1f\t%d\t%.1f\t%.1f\n", b.test, b.boot, b.tests, b.seconds, b.cpu)
		}
		fmt.Fprintf(w, "%d boots\t%.1f\t%d\t%.1f\t%.1f\n", len(s.boots), sum.boot, sum.tests, sum.seconds, sum.cpu)
	}
	for _, table := range []struct {
		title string
		rows  []timing
	}{{"slowest packages", s.packages}, {"slowest tests", s.tests}} {
		slices.SortFunc(table.rows, longest)
		fmt.Fprintf(w, "\n%s\tseconds\n", table.title)
		for _, row := range table.rows[:min(shown, len(table.rows))] {
			fmt.Fprintf(w, "%s\t%.1f\n", row.name, row.seconds)
		}
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("print the tables: %w", err)
	}
	for _, text := range s.skipped {
		fmt.Fprintln(s.out, "SKIP", text)
	}
	for _, cause := range s.causes[:min(shown, len(s.causes))] {
		fmt.Fprintln(s.out, cause)
	}
	for _, name := range s.failed {
		fmt.Fprintln(s.out, "FAIL", name)
	}
	fmt.Fprintf(s.out, "\n%.1f minutes\n%d passed, %d failed, %d skipped\n",
		time.Since(s.began).Minutes(), s.passed, len(s.failed), len(s.skipped))
	return nil
}

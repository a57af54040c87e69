package tables

import (
	"fmt"
	"regexp"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

// rowBytes is the size of one row in these tests: the cells name and rowid, with one
// digit.
const rowBytes = 4 + 5 + cellOverhead + 5 + 1 + cellOverhead

// at returns loads at these times.
func at(times ...int64) []kmodquery.Event {
	var events []kmodquery.Event
	for _, time := range times {
		events = append(events, kmodquery.Event{Time: time, Name: "dummy", EventName: "init_module", Source: "ebpf"})
	}
	return events
}

func TestAReplyBeyondTheBoundSaysWhatFits(t *testing.T) {
	for name, test := range map[string]struct {
		times []int64
		fit   int64 // rows
		want  string
	}{
		"all fit": {[]int64{1, 2, 3}, 3, ""},
		"the newest fit": {[]int64{1, 2, 3, 4}, 3,
			"reply would be 4 rows, more than 93 bytes: the newest 3 fit; ask for them with time >= 2, or select fewer columns"},
		"a second that fits only in part is left out": {[]int64{1, 2, 2, 3}, 2,
			"reply would be 4 rows, more than 62 bytes: the newest 1 fit; ask for them with time >= 3, or select fewer columns"},
		"no second fits": {[]int64{1, 3, 3, 3}, 2,
			"reply would be 4 rows, more than 62 bytes: the newest 2 fit, but no whole second; ask for them with eid >= 3, or select fewer columns"},
		"the clock was set back": {[]int64{50, 90, 10, 91, 20, 21}, 4,
			"reply would be 6 rows, more than 124 bytes: the newest 1 fit; ask for them with time >= 91, or select fewer columns"},
		"the clock was set back and stays there": {[]int64{90, 10, 11}, 2,
			"reply would be 3 rows, more than 62 bytes: the newest 2 fit, but no whole second; ask for them with eid >= 2, or select fewer columns"},
		"times before 1970": {[]int64{-9, -8, -7}, 1,
			"reply would be 3 rows, more than 31 bytes: the newest 1 fit; ask for them with time >= -7, or select fewer columns"},
		"not one row fits": {[]int64{1, 2}, 0,
			"reply would be 2 rows, more than 1 bytes: not even the newest fits; select fewer columns"},
	} {
		for _, table := range []string{"kernel_module_events", "kernel_module_findings"} {
			t.Run(name+" in "+table, func(t *testing.T) {
				c := testConfig(t, at(test.times...)...)
				c.ReplyBytes = max(1, test.fit*rowBytes)
				query := contextJSON(t, []string{"name"})
				if test.want == "" {
					require.Len(t, rowsOf(t, c, table, query), len(test.times))
					return
				}
				message := errorOf(t, c, table, query)
				require.Equal(t, "error generating table: "+test.want, message)

				advice := regexp.MustCompile(`the newest (\d+) fit.* (time|eid) >= (-?\d+)`).FindStringSubmatch(message)
				if advice != nil {
					rows := rowsOf(t, c, table, contextJSON(t, []string{"name"}, constraint{advice[2], advice[3], 32}))
					require.Equal(t, advice[1], fmt.Sprint(len(rows)))
				}
			})
		}
	}
}

func TestReplyBoundKeepsTheRowsOfOneEventTogether(t *testing.T) {
	c := testConfig(t, at(1, 2, 3)...)
	c.Signatures = append(c.Signatures, c.Signatures[0])
	c.ReplyBytes = 3 * rowBytes
	require.Equal(t, "error generating table: reply would be 6 rows, more than 93 bytes: the newest 2 fit; "+
		"ask for them with time >= 3, or select fewer columns", errorOf(t, c, "kernel_module_findings", contextJSON(t, []string{"name"})))
}

func TestReplyBoundCountsOnlyTheUsedColumns(t *testing.T) {
	c := testConfig(t, at(1, 2, 3, 4)...)
	c.ReplyBytes = 2 * rowBytes
	rows := rowsOf(t, c, "kernel_module_events", contextJSON(t, []string{"name"}, constraint{"time", "3", 32}))
	require.Len(t, rows, 2)
	require.Len(t, rowsOf(t, c, "kernel_module_events", contextJSON(t, []string{})), 4)
}

func TestSizesAreReadable(t *testing.T) {
	require.Equal(t, "48 MiB", replyBound{bytes: DefaultReplyBytes}.String())
	require.Equal(t, "1048577 bytes", replyBound{bytes: 1<<20 + 1}.String())
}

// osqueryd 5.23.1 was measured: 5,300 rows of 65 columns took 221 MB of its worker, 10,000
// rows of 23 columns 157 MB, and count(*) of 120,000 rows 41 MB.
func TestWorkerPaysByTheCell(t *testing.T) {
	rows := func(n, columns int) []map[string]string {
		row := map[string]string{}
		for i := range columns {
			row[fmt.Sprint("c", i)] = "12345"
		}
		return slices.Repeat([]map[string]string{row}, n)
	}
	worker := replyBound{isWorker: true}
	require.InEpsilon(t, 221e6, worker.cost(rows(5300, 65)), 0.1)
	require.InEpsilon(t, 157e6, worker.cost(rows(10000, 23)), 0.1)
	require.InEpsilon(t, 41e6, worker.cost(rows(120000, 0)), 0.1)
}

func TestWatchdogBoundsAReply(t *testing.T) {
	var names []string
	for i := range 200 {
		names = append(names, fmt.Sprint("module", i))
	}
	c := testConfig(t, loadsOf(names...)...)
	c.Worker = func() int64 { return 100_000 }
	message := errorOf(t, c, "kernel_module_events", contextJSON(t, []string{"name", "eid"}))
	require.Regexp(t, "^error generating table: reply would be 200 rows, more than 100000 bytes of osquery's worker, which its watchdog bounds: "+
		"the newest [0-9]+ fit, but no whole second; ask for them with eid >= [0-9]+, or select fewer columns$", message)
	c.Worker = func() int64 { return 199 * workerRow }
	for _, table := range []string{"kernel_module_events", "kernel_module_findings"} {
		context := contextJSON(t, []string{})
		if table == "kernel_module_findings" {
			require.Empty(t, rowsOf(t, c, table, context))
			continue
		}
		require.Contains(t, errorOf(t, c, table, context), "reply would be 200 rows")
	}
	query := contextJSON(t, []string{"name", "cursor"}, constraint{"cursor", "ship", equals})
	c.Worker = func() int64 { return 100_000 }
	require.LessOrEqual(t, c.bound().cost(rowsOf(t, c, "kernel_module_events", query)), int64(100_000))
	c.Worker = func() int64 { return 0 }
	require.Len(t, rowsOf(t, c, "kernel_module_events", contextJSON(t, []string{"name"})), 200)
}

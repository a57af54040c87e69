package ulog

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

func TestReadingContinuesAtThePosition(t *testing.T) {
	w := newWorld(t)
	w.write("show", loaded(0, "com.example.a"), loaded(20, "com.example.b"))
	require.NoError(t, w.start())
	require.Equal(t, []string{"com.example.a", "com.example.b"}, names(w.take(2)))
	require.Equal(t, testTime.Add(15*time.Second).UnixNano(), parsePosition(w.position).Since)
	require.Len(t, parsePosition(w.position).Emitted, 1)
	w.stream(loaded(20, "com.example.b"), loaded(40, "com.example.c"))
	first := w.take(1)
	require.Equal(t, []string{"com.example.c"}, names(first))
	w.stop()

	// Another process. Meanwhile d was logged, and e, late, before c.
	w.restart()
	w.write("stream", loaded(41, "com.example.d"))
	w.write("show", loaded(20, "com.example.b"), loaded(38, "com.example.e"), loaded(40, "com.example.c"), loaded(41, "com.example.d"))
	require.NoError(t, w.start())
	events := w.take(2)
	require.ElementsMatch(t, []string{"com.example.d", "com.example.e"}, names(events))
	w.stop()
	// Thirty seconds before the position, which is five seconds before c.
	require.Contains(t, w.read("log.arguments"), "show --info --start "+testTime.Add(5*time.Second).Format("2006-01-02 15:04:05")+"+0000 --style ndjson --predicate eventMessage contains \"kextload\" OR ")

	// The same process. Its last events may not be stored yet.
	w.position = ""
	require.NoError(t, w.start())
	w.take(0)
	w.stop()
}

func TestDroppedMessagesAreBackfilled(t *testing.T) {
	w := newWorld(t)
	require.NoError(t, w.start())
	w.stream(loaded(0, "com.example.a"))
	w.take(1)
	w.write("show", loaded(0, "com.example.a"), loaded(1, "com.example.b"), loaded(2, "com.example.c"))
	w.stream("=== Messages dropped during live streaming (use `log show` to see what they were)", loaded(2, "com.example.c"))
	require.ElementsMatch(t, []string{"com.example.b", "com.example.c"}, names(w.take(2)))
	w.stop()
	require.Zero(t, w.source.Sensor().Lost)
	require.Contains(t, w.read("log.arguments"), "show --info --start ")
}

func TestAFailedBackfillIsRetriedAndThenCountsAsLost(t *testing.T) {
	for _, test := range []struct{ how, reason string }{
		{"show_fails", "exit status 65: log: Could not open local log store"},
		{"show_hangs", "log show did not end within 5m0s"},
	} {
		t.Run(test.how, func(t *testing.T) {
			w := newWorld(t)
			w.write("show", loaded(0, "com.example.a"))
			w.write(test.how, "log: Could not open local log store")
			if test.how == "show_hangs" {
				w.source.withTimeout = w.timeOutAfterARecord
			}
			require.NoError(t, w.start())
			require.Equal(t, []string{"com.example.a"}, names(w.take(1)), "each try printed this record")
			w.stream(loaded(1, "com.example.b"))
			require.Equal(t, []string{"com.example.b"}, names(w.take(1)))
			sensor := w.source.Sensor()
			require.Equal(t, kmodquery.StateActive, sensor.State)
			require.EqualValues(t, 1, sensor.Lost)
			require.Contains(t, sensor.Reason, "the log from 2026-11-24T09:59:55Z to ")
			require.Contains(t, sensor.Reason, test.reason)
			require.NotContains(t, sensor.Reason, "\n")
			w.stop()
			require.Equal(t, showTries, strings.Count(w.read("log.arguments"), "show --info"))
		})
	}
}

func TestAPositionDuringABackfillIsThatOfTheBackfill(t *testing.T) {
	w := newWorld(t)
	w.write("show", loaded(0, "com.example.a"))
	w.write("show_hangs", "")
	w.write("stream", loaded(9, "com.example.live"))
	ended := make(chan error, 1)
	go func() { ended <- w.start() }() // the source is not ready before the backfill ends
	require.Eventually(t, func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.events) == 2
	}, time.Minute, 5*time.Millisecond)
	w.cancel()
	require.NoError(t, <-ended)

	// The next process emits the missing event only.
	w.events = nil
	w.restart()
	require.NoError(t, os.Remove(filepath.Join(w.dir, "show_hangs")))
	w.write("show", loaded(0, "com.example.a"), loaded(5, "com.example.b"), loaded(9, "com.example.live"))
	require.NoError(t, w.start())
	require.Equal(t, []string{"com.example.b"}, names(w.take(1)))
	w.stop()
}

func TestALongBackfillDoesNotDelayReady(t *testing.T) {
	w := newWorld(t)
	w.source.timeouts.backfill = 100 * time.Millisecond
	w.write("show_hangs", "")
	require.NoError(t, w.start())
	w.stream(loaded(0, "com.example.a"))
	w.take(1)
	w.stop()
}

func TestBackfillIsLimited(t *testing.T) {
	w := newWorld(t)
	w.write("show", loaded(0, "com.example.a"), loaded(9, "com.example.b"))
	w.source.Backfill(testTime.Add(5*time.Second), time.Time{})
	require.NoError(t, w.start())
	require.Equal(t, []string{"com.example.b"}, names(w.take(1)))
	w.stop()
	require.Contains(t, w.read("log.arguments"), "show --info --start "+testTime.Add(-25*time.Second).Format("2006-01-02 15:04:05")+"+0000 ")
}

// The last record is in the future, and the stream drops messages after the clock was
// set back.
func TestABackfillNeverBeginsInTheFuture(t *testing.T) {
	w := newWorld(t)
	require.NoError(t, w.start())
	ahead := time.Since(testTime).Seconds() + 3600
	w.stream(loaded(ahead, "com.example.a"))
	w.take(1)
	began := time.Now()
	w.write("show", loaded(0, "com.example.b"))
	w.stream("=== Messages dropped during live streaming (use `log show` to see what they were)")
	w.take(1)
	w.stop()
	arguments := w.read("log.arguments")
	_, start, _ := strings.Cut(arguments[strings.LastIndex(arguments, "--start "):], "--start ")
	at, err := time.Parse("2006-01-02 15:04:05-0700", start[:24])
	require.NoError(t, err)
	require.False(t, at.After(began), "it begins at %v and ran at %v", at, began)
}

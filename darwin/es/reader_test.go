package es

import (
	"context"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/test/standin"
)

// The stand-in, like eslogger, writes to a pipe in blocks and prints no event of its
// own process group.
func TestEventsAreEmittedAsSoonAsTheyArePrinted(t *testing.T) {
	w := watch(t, esRecord("a", 0)+"await more\n"+esRecord("b", 1))
	w.awaitReady(t)
	require.NoError(t, w.Sync(t.Context()))
	require.Equal(t, []string{"a"}, w.names())
	sensor := w.Sensor()
	require.Equal(t, kmodquery.StateActive, sensor.State)
	require.Equal(t, `["kextload (eslogger)","kextunload (eslogger)"]`, sensor.Hooks)

	w.let(t, "more")
	require.Eventually(t, func() bool { return len(w.names()) == 2 }, within, time.Millisecond)
	w.stop()
	require.NoError(t, w.end(t))
	sensor = w.Sensor()
	require.Equal(t, kmodquery.StateStandby, sensor.State)
	require.Empty(t, sensor.Hooks)
	require.EqualValues(t, 2, sensor.Received)
	require.Zero(t, sensor.Lost+sensor.DecodeErrors)
	require.EqualValues(t, 2, sensor.EnrichErrors)
	require.NotZero(t, sensor.LastEventTime)
}

func TestTheSourceIsReadyWithoutEvents(t *testing.T) {
	began := time.Now()
	w := watch(t, "", func(o *timeouts) { o.alive = 100 * time.Millisecond })
	w.awaitReady(t)
	require.GreaterOrEqual(t, time.Since(began), w.timeouts.alive, "eslogger may still exit")
	require.NoError(t, w.Sync(t.Context()))
	w.stop()
	require.NoError(t, w.end(t))
	require.NoError(t, w.Sync(t.Context()), "a source that does not run has nothing to wait for")
}

func TestMessageNumbersStartAgainWithEachRun(t *testing.T) {
	w := watch(t, esRecord("a", 0)+esRecord("b", 7)+"die\n---\n"+esRecord("c", 0)+esRecord("d", 1))
	require.Error(t, w.end(t))
	require.EqualValues(t, 6, w.Sensor().Lost)
	w.run(t)
	w.awaitReady(t)
	require.Eventually(t, func() bool { return len(w.names()) == 4 }, within, time.Millisecond)
	require.EqualValues(t, 6, w.Sensor().Lost, "the numbers start again")
	require.Equal(t, 2, standin.Runs(w.program))
}

func TestGapsInTheMessageNumbersAreLosses(t *testing.T) {
	for _, test := range []struct {
		name, play   string
		lost, errors int64
	}{
		{"none", esRecord("a", 3) + esRecord("b", 4), 0, 0},
		{"one", esRecord("a", 0) + esRecord("b", 2), 1, 0},
		{"of a line that cannot be parsed", esRecord("a", 0) + "print {half\n" + esRecord("b", 2), 0, 1},
		{"of such a line and more", esRecord("a", 0) + "print {half\n" + esRecord("b", 5), 3, 1},
		{"of another event", esRecord("a", 0) + "print {\"global_seq_num\":1,\"event\":{\"exec\":{}}}\n" + esRecord("b", 2), 0, 0},
		{"of a record without a number", esRecord("a", 0) + "print {\"event\":{\"exec\":{}}}\n" + esRecord("b", 2), 0, 0},
		{"backwards", esRecord("a", 9) + esRecord("b", 2) + esRecord("c", 3), 0, 0},
		{"enormous", esRecord("a", 0) + "print {\"global_seq_num\":18446744073709551615,\"event\":{}}\n" + esRecord("b", 0), 1 << 40, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := watch(t, test.play+"exit 0\n")
			require.Error(t, w.end(t))
			require.Equal(t, test.lost, w.Sensor().Lost)
			require.Equal(t, test.errors, w.Sensor().DecodeErrors)
			require.Equal(t, strings.Count(test.play, "kextload"), len(w.names()))
		})
	}
}

func TestLinesThatCannotBeParsedAreDecodeErrors(t *testing.T) {
	w := watch(t, "print \nprint Some notice\n"+esRecord("a", 0)+"begin {\"event\":{\"kextload\":\n"+"fill 10485760\nprint \n"+esRecord("b", 2)+"begin {\"event\":\nexit 0\n")
	require.Error(t, w.end(t))
	require.Equal(t, []string{"a", "b"}, w.names())
	sensor := w.Sensor()
	require.EqualValues(t, 5, sensor.Received)
	require.EqualValues(t, 3, sensor.DecodeErrors, "a notice, a line that is too long, and an incomplete object, but not the blank line")
	require.Zero(t, sensor.Lost, "the long line accounts for one message")
}

func TestAnIncompleteRecordEndsTheRun(t *testing.T) {
	w := watch(t, esRecord("a", 0)+"begin {\"event\":\n", func(o *timeouts) {
		o.half, o.look = 50*time.Millisecond, 10*time.Millisecond
	})
	require.EqualError(t, w.end(t), "eslogger left a record incomplete for 50ms; it is started again")
	require.EqualValues(t, 1, w.Sensor().DecodeErrors)
}

func TestAFloodDoesNotTakeMemoryOrBlockASync(t *testing.T) {
	w := watch(t, "flood 1000000000\n", func(o *timeouts) { o.sync = 200 * time.Millisecond })
	w.mu.Lock() // the events must not accumulate anywhere
	w.awaitReady(t)
	w.mu.Unlock()
	for range 3 {
		began := time.Now()
		require.NoError(t, w.Sync(t.Context()))
		require.Less(t, time.Since(began), within)
	}
	w.mu.Lock()
	w.seen = nil
	w.mu.Unlock()
	runtime.GC()
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	require.Less(t, memory.HeapInuse, uint64(64<<20))
	require.Zero(t, w.Sensor().Lost)
	w.stop()
	require.NoError(t, w.end(t))
}

func TestSyncWaitsForPrintedEvents(t *testing.T) {
	w := watch(t, "flood 2000\nmark printed\n")
	w.awaitReady(t)
	require.Eventually(t, func() bool { return w.has("printed") }, within, time.Millisecond)
	require.NoError(t, w.Sync(t.Context()))
	require.Len(t, w.names(), 2000)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, w.Sync(ctx), context.Canceled)
}

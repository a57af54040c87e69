package source

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

func TestStates(t *testing.T) {
	missing := &kmodquery.NotSupportedError{Missing: "there is no log", Need: "one"}
	for _, test := range []struct {
		name          string
		cause         error
		state, reason string
	}{
		{"asked to end", nil, kmodquery.StateStandby, ""},
		{"it broke", errors.New("first\n\tsecond\n"), kmodquery.StateFailed, "first; second"},
		{"never", fmt.Errorf("run: %w", missing), kmodquery.StateUnavailable, "run: not supported: there is no log; needs one"},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := New(kmodquery.SourceKmsg)
			require.Equal(t, kmodquery.SourceKmsg, h.Name())
			sensor := h.Sensor()
			require.Equal(t, kmodquery.SourceKmsg, sensor.Source)
			require.Equal(t, kmodquery.StateStandby, sensor.State)
			require.InDelta(t, time.Now().Unix(), sensor.Since, 5)

			h.Started([]string{"a", `"b"`}, "not all", nil)
			sensor = h.Sensor()
			require.Equal(t, kmodquery.StateActive, sensor.State)
			require.Equal(t, "not all", sensor.Reason)
			require.Equal(t, `["a","\"b\""]`, sensor.Hooks)

			h.Stopped(test.cause)
			sensor = h.Sensor()
			require.Equal(t, test.state, sensor.State)
			require.Equal(t, test.reason, sensor.Reason)
			require.Empty(t, sensor.Hooks)
			h.Stopped(test.cause) // it did not begin
		})
	}
}

func TestDegradedIsFailed(t *testing.T) {
	h := New(kmodquery.SourceEBPF)
	h.Started([]string{"a"}, "", nil)
	h.Degraded(errors.New("some hooks are missing:\none"))
	require.Equal(t, kmodquery.StateFailed, h.Sensor().State)
	require.Equal(t, "some hooks are missing:; one", h.Sensor().Reason)
	require.Equal(t, `["a"]`, h.Sensor().Hooks)
}

func TestCounts(t *testing.T) {
	h := New(kmodquery.SourceAudit)
	h.Received.Add(1)
	h.Lost.Add(2)
	h.DecodeErrors.Add(3)
	h.Shed.Add(9)
	h.Emitted(&kmodquery.Delivery{Event: kmodquery.Event{Time: 7, Count: new(int64(5)), Missing: "name"}})
	h.Emitted(&kmodquery.Delivery{Event: kmodquery.Event{Time: 8, Count: new(int64(1))}})
	h.SetGap(time.Unix(1, 5), time.Unix(2, 5))
	sensor := h.Sensor()
	require.Equal(t, kmodquery.Sensor{
		Source: kmodquery.SourceAudit, State: kmodquery.StateStandby, Since: sensor.Since,
		Received: 1, Lost: 2, DecodeErrors: 3, EnrichErrors: 1, Denied: 4, LastEventTime: 8, GapStart: 1, GapEnd: 2, Shed: 9,
	}, sensor)
}

func TestReasonsAreBounded(t *testing.T) {
	h := New(kmodquery.SourceUnifiedLog)
	h.Started(nil, "", nil)
	h.AddReason("the first\nof them")
	require.Equal(t, "the first; of them", h.Sensor().Reason, "nothing stands before it")
	h.AddReason("the second")
	h.AddReason("the first\nof them")
	require.Equal(t, "the first; of them; the second", h.Sensor().Reason, "each once")
	h.SetReason("another")
	require.Equal(t, "another", h.Sensor().Reason)
	for i := range maxReason {
		h.AddReason(fmt.Sprintf("%04d %s", i, strings.Repeat("x", 100)))
	}
	require.Len(t, h.Sensor().Reason, maxReason)
	h.SetReason("long " + strings.Repeat("é", maxReason))
	h.AddReason("short")
	require.Regexp(t, "^long é{100,}…; short$", h.Sensor().Reason, "a long one hides no other")
	h.SetReason("another")
	for i := range maxReason {
		h.AddReason(fmt.Sprintf("%04d %s", i, strings.Repeat("x", 100)))
	}
	require.LessOrEqual(t, len(h.Sensor().Reason), maxReason)
	require.Contains(t, h.Sensor().Reason, "another; 0000 ")
	h.SetReason("")
	h.AddReason(strings.Repeat("é", 1<<16))
	require.LessOrEqual(t, len(h.Sensor().Reason), maxReason)
	require.True(t, utf8.ValidString(h.Sensor().Reason))
}

func TestResume(t *testing.T) {
	h := New(kmodquery.SourceJournal)
	position, err := h.Resume(t.Context(), nil)
	require.NoError(t, err)
	require.Empty(t, position)

	broken := errors.New("no store")
	_, err = h.Resume(t.Context(), func(context.Context) (string, error) { return "", broken })
	require.ErrorIs(t, err, broken)
	require.EqualError(t, err, "ask the store how far the log was read: no store")

	stored := func(context.Context) (string, error) { return "stored", nil }
	position, err = h.Resume(t.Context(), stored)
	require.NoError(t, err)
	require.Equal(t, "stored", position)

	h.Emitted(&kmodquery.Delivery{Position: "told"})
	h.Emitted(&kmodquery.Delivery{})
	position, err = h.Resume(t.Context(), stored)
	require.NoError(t, err)
	require.Equal(t, "told", position, "it may not be stored yet")
}

func TestOneLine(t *testing.T) {
	for text, want := range map[string]string{
		"":                          "",
		"one":                       "one",
		"a\nb":                      "a; b",
		"\n\ta: b\n \n\n\tc  d\t\n": "a: b; c  d",
	} {
		require.Equal(t, want, OneLine(errors.New(text)))
	}
}

func TestLastRoundIsThatOfTheLoopFurthestBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := New(kmodquery.SourceEBPF)
		require.Zero(t, h.LastRound(), "it does not run")
		h.Started(nil, "", nil)
		images := h.AddLoop()
		began := time.Now()
		time.Sleep(time.Second)
		h.Progress()
		require.Equal(t, began, h.LastRound())
		images.Round()
		require.Equal(t, time.Now(), h.LastRound())
		images.End()
		time.Sleep(time.Second)
		require.Equal(t, began.Add(time.Second), h.LastRound())
		h.NewBarrier(time.Second).Begin()
		require.Equal(t, time.Now(), h.LastRound())
		h.Stopped(nil)
		require.Zero(t, h.LastRound())
	})
}

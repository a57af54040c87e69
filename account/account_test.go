package account

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

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
			a := New(kmodquery.SourceKmsg)
			require.Equal(t, kmodquery.SourceKmsg, a.Name())
			sensor := a.Sensor()
			require.Equal(t, kmodquery.SourceKmsg, sensor.Source)
			require.Equal(t, kmodquery.StateStandby, sensor.State)
			require.InDelta(t, time.Now().Unix(), sensor.Since, 5)

			a.Begin([]string{"a", `"b"`}, "not all", nil)
			sensor = a.Sensor()
			require.Equal(t, kmodquery.StateActive, sensor.State)
			require.Equal(t, "not all", sensor.Reason)
			require.Equal(t, `["a","\"b\""]`, sensor.Hooks)

			a.Settle(test.cause)
			sensor = a.Sensor()
			require.Equal(t, test.state, sensor.State)
			require.Equal(t, test.reason, sensor.Reason)
			require.Empty(t, sensor.Hooks)
			a.Settle(test.cause) // it did not begin
		})
	}
}

func TestFault(t *testing.T) {
	a := New(kmodquery.SourceEBPF)
	a.Begin([]string{"a"}, "", nil)
	a.Fault(errors.New("some hooks are missing:\none"))
	require.Equal(t, kmodquery.StateFailed, a.Sensor().State)
	require.Equal(t, "some hooks are missing:; one", a.Sensor().Reason)
	require.Equal(t, `["a"]`, a.Sensor().Hooks)
}

func TestCounts(t *testing.T) {
	a := New(kmodquery.SourceAudit)
	a.Received.Add(1)
	a.Lost.Add(2)
	a.DecodeErrors.Add(3)
	a.Tell(&kmodquery.Event{Time: 7, Count: new(int64(5)), Missing: "name"})
	a.Tell(&kmodquery.Event{Time: 8, Count: new(int64(1))})
	a.Gap(time.Unix(1, 5), time.Unix(2, 5))
	sensor := a.Sensor()
	require.Equal(t, kmodquery.Sensor{
		Source: kmodquery.SourceAudit, State: kmodquery.StateStandby, Since: sensor.Since,
		Received: 1, Lost: 2, DecodeErrors: 3, EnrichErrors: 1, Denied: 4, LastEventTime: 8, GapStart: 1, GapEnd: 2,
	}, sensor)
}

func TestNotes(t *testing.T) {
	a := New(kmodquery.SourceUnifiedLog)
	a.Begin(nil, "", nil)
	a.Note("the first\nof them")
	require.Equal(t, "the first; of them", a.Sensor().Reason, "nothing stands before it")
	a.Note("the second")
	a.Note("the first\nof them")
	require.Equal(t, "the first; of them; the second", a.Sensor().Reason, "each once")
	a.Remark("another")
	require.Equal(t, "another", a.Sensor().Reason)
	for i := range maxReason {
		a.Note(fmt.Sprintf("%04d %s", i, strings.Repeat("x", 100)))
	}
	require.Less(t, len(a.Sensor().Reason), maxReason+200)
	require.Contains(t, a.Sensor().Reason, "another; 0000 ")
}

func TestResume(t *testing.T) {
	a := New(kmodquery.SourceJournal)
	position, err := a.Resume(t.Context(), nil)
	require.NoError(t, err)
	require.Empty(t, position)

	broken := errors.New("no store")
	_, err = a.Resume(t.Context(), func(context.Context) (string, error) { return "", broken })
	require.ErrorIs(t, err, broken)
	require.EqualError(t, err, "ask the store how far the log was read: no store")

	stored := func(context.Context) (string, error) { return "stored", nil }
	position, err = a.Resume(t.Context(), stored)
	require.NoError(t, err)
	require.Equal(t, "stored", position)

	a.Tell(&kmodquery.Event{Position: "told"})
	a.Tell(&kmodquery.Event{})
	position, err = a.Resume(t.Context(), stored)
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

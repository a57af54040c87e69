package ulog

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestInvalidPositionsAreIgnored(t *testing.T) {
	for _, text := range []string{"", "{", "[]x", `{"mark":5,"told":["x"]}`, `{"mark":-1}`, `{"mark":"x"}`, strings.Repeat(" ", maxPosition+1)} {
		require.Zero(t, parsePosition(text), text)
	}
	p := parsePosition(`{"mark":5,"told":[{"key":"0011223344556677","at":9},{"key":"x"},{}]}`)
	require.True(t, newEmittedRecords(p).has("0011223344556677"))
}

func TestAfterTheClockIsSetBackNothingIsLost(t *testing.T) {
	emitted := newEmittedRecords(position{})
	since := func() time.Time { return time.Unix(0, parsePosition(emitted.position(nil)).Since).UTC() }
	emitted.add("1", testTime.Add(time.Hour), true, false)
	emitted.add("2", testTime.Add(time.Hour-time.Second), true, false)
	emitted.add("3", testTime, false, false)
	require.Equal(t, testTime.Add(time.Hour-overlap), since())
	emitted.add("4", testTime, true, false)
	require.Equal(t, testTime.Add(-overlap), since())
	require.Len(t, parsePosition(emitted.position(nil)).Emitted, 4)

	// A position in the future hides no records.
	w := newWorld(t)
	w.position = fmt.Sprintf(`{"mark":%d}`, time.Now().Add(time.Hour).UnixNano())
	w.write("show", loaded(0, "com.example.a"))
	began := time.Now()
	require.NoError(t, w.start())
	w.take(1)
	w.stop()
	_, start, _ := strings.Cut(w.read("log.arguments"), "--start ")
	at, err := time.Parse("2006-01-02 15:04:05-0700", start[:24])
	require.NoError(t, err)
	require.WithinRange(t, at, began.Add(-margin-2*time.Second), time.Now().Add(-margin))
}

func TestRememberedRecordsAndPositionsAreBounded(t *testing.T) {
	emitted := newEmittedRecords(position{})
	for n := range 3 * maxEmitted {
		emitted.add(fmt.Sprintf("%016x", n), testTime.Add(time.Duration(n)*time.Millisecond), true, false)
	}
	require.Len(t, emitted.list, maxEmitted)
	p := parsePosition(emitted.position(&boot))
	require.Zero(t, p.Since)
	require.Len(t, p.Emitted, maxPositionRecords)
	require.Less(t, len(emitted.position(&boot)), maxPosition)
}

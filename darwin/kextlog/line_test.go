package kextlog

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	probe  = "com.example.driver.probe"
	cdhash = "0123456789abcdef0123456789abcdef01234567"

	entry = `{"timezoneName":"","messageType":"Default","eventType":"logEvent","source":null,"formatString":"%{public}s","userID":0,` +
		`"activityIdentifier":0,"subsystem":"","category":"","threadID":6223,"senderImageUUID":"C332CE63","backtrace":{"frames":[{"imageOffset":1}]},` +
		`"bootUUID":"3F6A41E6-9C27-4C11-9E0C-6E5B1B5A7F10","processImagePath":"\/usr\/libexec\/kernelmanagerd","timestamp":"2026-11-24 02:00:01.250000-0800",` +
		`"senderImagePath":"\/usr\/libexec\/kernelmanagerd","machTimestamp":432123150336,"eventMessage":"Received kext load notification: com.example.driver.probe",` +
		`"processImageUUID":"5E5C46C9","traceID":18446744073709551615,"processID":104,"senderProgramCounter":120448,"parentActivityIdentifier":0}`
)

func TestParseLine(t *testing.T) {
	line, err := ParseLine([]byte(entry + "\r"))
	require.NoError(t, err)
	require.Equal(t, Entry, line.Kind)
	r := line.Record
	require.True(t, r.Time.Equal(time.Date(2026, 11, 24, 10, 0, 1, 250_000_000, time.UTC)))
	r.Time = time.Time{}
	require.Equal(t, Record{
		Mach: 432123150336, Thread: 6223, pid: 104, userID: new(int64(0)),
		process: "/usr/libexec/kernelmanagerd", sender: "/usr/libexec/kernelmanagerd", BootID: "3F6A41E6-9C27-4C11-9E0C-6E5B1B5A7F10",
		Message: "Received kext load notification: " + probe,
	}, r)
	require.Equal(t, []Statement{{Kind: Loaded, Name: probe}}, r.Statements())
}

func TestLinesThatAreNotRecords(t *testing.T) {
	for text, kind := range map[string]LineKind{
		"": note, "   ": note, "log: warning: something": note, "Timestamp  Thread": note, "=== Begin": note, "null": note,
		`Filtering the log data using "eventMessage CONTAINS \"kextload\""`:                 header,
		"=== Messages dropped during live streaming (use `log show` to see what they were)": Dropped,
		`{"count":12,"finished":1}`: footer,
	} {
		line, err := ParseLine([]byte(text))
		require.NoError(t, err, text)
		require.Equal(t, kind, line.Kind, text)
	}
	for _, text := range []string{
		"{", "{}", entry[:len(entry)/2], `{"timestamp":"yesterday","processID":1}`, `{"timestamp":"2026-11-24 10:00:00.000000+0000"}`,
		strings.Replace(entry, `"threadID":6223`, `"threadID":-1`, 1), strings.Replace(entry, `"processID":104`, `"processID":"x"`, 1),
		entry + "{}",
	} {
		_, err := ParseLine([]byte(text))
		require.ErrorIs(t, err, errEntry, text)
	}
	// An activity has no message type, and its process may be unknown.
	activity, err := ParseLine([]byte(strings.Replace(strings.Replace(entry, `"messageType":"Default",`, "", 1), `"processID":104`, `"processID":-1`, 1)))
	require.NoError(t, err)
	require.Empty(t, activity.Record.Statements())
}

func FuzzLine(f *testing.F) {
	f.Add([]byte(entry))
	f.Add([]byte("=== Messages dropped during live streaming"))
	f.Add([]byte(`{"count":12,"finished":1}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		line, err := ParseLine(text)
		if err != nil {
			require.ErrorIs(t, err, errEntry)
			return
		}
		requireSane(t, line.Record.Statements())
	})
}

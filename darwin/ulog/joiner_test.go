package ulog

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/darwin/kextlog"
)

func TestALoadIDIsTheSameWheneverTheLogIsRead(t *testing.T) {
	w := newWorld(t)
	allowed := logRecord(0, "/usr/libexec/syspolicyd", "Kernel Extension ALLOWED: Kext ("+testTeam+", "+testKext+")")
	w.write("show", allowed)
	require.NoError(t, w.start())
	before := w.take(1)[0]
	w.stop()
	// The load was logged while no process ran.
	w.restart()
	w.write("show", allowed, loaded(3, testKext))
	require.NoError(t, w.start())
	after := w.take(1)[0]
	w.stop()
	require.Equal(t, before.LoadID, after.LoadID)
	require.Equal(t, testTeam, after.TeamID)

	// The load is live, the permission is backfilled.
	w.restart()
	w.position = ""
	w.write("show", allowed)
	require.NoError(t, w.start())
	w.take(1)
	w.stream(loaded(3, testKext))
	require.Equal(t, before.LoadID, w.take(1)[0].LoadID)

	// A second load is another attempt.
	w.stream(loaded(3.5, testKext))
	require.NotEqual(t, before.LoadID, w.take(1)[0].LoadID)
	w.stop()
}

// Repeated attempts that follow each other within attemptTime are separate attempts.
func TestRepeatedRefusalsAreSeparateAttempts(t *testing.T) {
	for _, message := range []struct{ process, text string }{
		{"/usr/libexec/syspolicyd", "Kernel Extension BLOCKED: Kext ((null), com.example.a)"},
		{"/kernel", "Kext com.example.a start failed (result 0x5)."},
	} {
		j, events := newJoiner(), 0
		loadIDs := map[string]bool{}
		for n := range 100 {
			for _, again := range []float64{0, 0.1} { // two messages about one refusal
				line, err := kextlog.ParseLine([]byte(logRecord(1.9*float64(n)+again, message.process, message.text)))
				require.NoError(t, err)
				found, _ := j.add(&line.Record, "")
				for _, e := range found {
					events++
					loadIDs[e.LoadID] = true
				}
			}
		}
		require.Greater(t, events, 40, message.text)
		require.Len(t, loadIDs, events)
	}
}

// joined returns the events of records, one for each process and message, a second apart.
func joined(t *testing.T, records ...[2]string) []kmodquery.Event {
	t.Helper()
	j := newJoiner()
	var events []kmodquery.Event
	for i, r := range records {
		line, err := kextlog.ParseLine([]byte(logRecord(float64(i), r[0], r[1])))
		require.NoError(t, err)
		found, _ := j.add(&line.Record, "")
		events = append(events, found...)
	}
	return events
}

const (
	manager   = "/usr/libexec/kernelmanagerd"
	helper    = "/usr/libexec/kernelmanager_helper"
	syspolicy = "/usr/libexec/syspolicyd"
)

func direct(path, version, signed string) [2]string {
	return [2]string{manager, "directLoadAuxiliaryExtensions: [" + testKext + " v" + version + " (D850472E) at " + path + "  signed @" + signed + "  x]"}
}

func checked(path, version string) [2]string {
	return [2]string{helper, "checking bundle path " + path + " for Kext " + testKext + " v" + version + " in executable kext bundle " + testKext + " at " + path}
}

func TestTwoOpenAttemptsDoNotMix(t *testing.T) {
	loaded, failed := [2]string{manager, "Received kext load notification: " + testKext}, [2]string{"/kernel", "Failed to load kext " + testKext + " (error 0xdc008016)."}
	events := joined(t, direct("/tmp/a.kext", "1", "none"), direct("/L/a.kext", "1", "team("+testTeam+")"), failed,
		direct("/tmp/c.kext", "1", "none"), loaded, direct("/tmp/d.kext", "2", "none"), loaded, loaded, direct("/tmp/e.kext", "3", "none"), loaded)
	var rows []string
	loadIDs := map[string]bool{}
	for _, e := range events {
		rows = append(rows, e.EventName+"|"+e.Path+"|"+e.Version+"|"+e.TeamID+"|"+e.SignatureStatus)
		loadIDs[e.LoadID] = true
	}
	// The failure may be that of the first or the second attempt. The other one is still open
	// then, and may be any of those that end later. The last one is the only one.
	require.Equal(t, []string{
		"kextload||1||", "kextload||1||", "kextload||||", "kextload||||", "kextload|/tmp/e.kext|3||unsigned",
	}, rows)
	require.Len(t, loadIDs, 5, "each attempt has a load_id of its own")
}

func TestPathIsWhatWasAskedFor(t *testing.T) {
	loaded := [2]string{manager, "Received kext load notification: " + testKext}
	asked := func(path string) [2]string { return [2]string{manager, `Loading paths: ["` + path + `"]`} }
	for _, test := range []struct {
		records       [][2]string
		path, version string
	}{
		{[][2]string{asked("/L/a.kext/"), checked("/L/b.kext", "2"), checked("/Library/StagedExtensions/L/a.kext", "1"), loaded}, "/L/a.kext", "1"},
		{[][2]string{checked("/L/a.kext", "1"), checked("/L/b.kext", "1"), loaded}, "", "1"},
		{[][2]string{checked("/L/a.kext", "1"), checked("/L/b.kext", "2"), loaded}, "", ""},
		{[][2]string{asked("/L/a.kext"), asked("/L/b.kext"), checked("/L/a.kext", "1"), checked("/L/b.kext", "1"), loaded}, "", "1"},
		{[][2]string{asked("/L/a.kext"), loaded}, "", ""},
		{[][2]string{asked("/L/a.kext"), checked("/L/a.kext", "1"), direct("/L/a.kext", "1", "none"), loaded}, "/L/a.kext", "1"},
	} {
		events := joined(t, test.records...)
		require.Len(t, events, 1)
		require.Equal(t, test.path+"|"+test.version, events[0].Path+"|"+events[0].Version, test.records)
		require.Equal(t, test.path == "", events[0].Missing.Has("path"))
	}
}

func TestALoadThatWasAskedForByItsIDIsNoBootLoad(t *testing.T) {
	loaded := [2]string{manager, "Received kext load notification: " + testKext}
	asked := func(ids string) [2]string {
		return [2]string{"/usr/libexec/kernelmanager_helper", "Handling loadOrRebuildRequest: \npaths: [],\nidentifiers: [" + ids + "]"}
	}
	for _, test := range []struct {
		records  [][2]string
		bootLoad int64
	}{
		{[][2]string{loaded}, 1},
		{[][2]string{asked(`"com.example.other"`), loaded}, 1},
		{[][2]string{asked(`"com.example.other", "` + testKext + `"`), loaded}, 0},
		{[][2]string{asked(`"<private>"`), loaded}, 0},
		{[][2]string{asked(`not understood`), loaded}, 0},
	} {
		events := joined(t, test.records...)
		require.Len(t, events, 1)
		require.Equal(t, test.bootLoad, *events[0].BootLoad, test.records)
	}
}

func TestACodelessLoadIsOneEvent(t *testing.T) {
	loaded := [2]string{manager, "Received kext load notification: " + testKext}
	events := joined(t, [2]string{manager, "Loading codeless extension: Kext " + testKext + " v2"}, loaded, loaded)
	require.Len(t, events, 2, "the last notification is of another load")
	require.Equal(t, "2", events[0].Version)
	require.Empty(t, events[1].Version)
}

// Any user can ask for any number of loads. What is forgotten then might have been the
// attempt that an outcome belongs to.
func TestAFloodOfAttemptsLeavesValuesOut(t *testing.T) {
	j := newJoiner()
	add := func(at float64, r [2]string) []kmodquery.Event {
		line, err := kextlog.ParseLine([]byte(logRecord(at, r[0], r[1])))
		require.NoError(t, err)
		events, _ := j.add(&line.Record, "")
		return events
	}
	add(0, direct("/L/a.kext", "1", "none"))
	for i := range maxOpen {
		add(0.1, direct(fmt.Sprintf("/tmp/%d.kext", i), "1", "none"))
	}
	loaded := [2]string{manager, "Received kext load notification: " + testKext}
	add(9, direct("/tmp/x.kext", "1", "none"))
	require.Empty(t, add(9.5, loaded)[0].Path)
	add(19, direct("/tmp/x.kext", "1", "none"))
	require.Empty(t, add(19.1, loaded)[0].Path, "it may be the one of 9.5")
	add(40, direct("/tmp/y.kext", "1", "none"))
	require.Equal(t, "/tmp/y.kext", add(40.1, loaded)[0].Path)

	for i := range maxNames {
		add(50, [2]string{manager, fmt.Sprintf("Loading codeless extension: Kext a%d v1", i)})
		add(50, [2]string{syspolicy, fmt.Sprintf("Kernel Extension ALLOWED: Kext ((null), a%d)", i)})
	}
	require.LessOrEqual(t, len(j.extensions), maxNames)
	add(51, direct("/tmp/z.kext", "1", "none"))
	require.Empty(t, add(52, loaded)[0].Path)

	for i := range maxRequested + 1 {
		add(90, [2]string{manager, fmt.Sprintf(`Loading paths: ["/tmp/%d.kext"]`, i)})
	}
	add(91, [2]string{manager, `Loading paths: ["/tmp/0.kext"]`})
	add(92, checked("/tmp/0.kext", "1"))
	require.Empty(t, add(93, loaded)[0].Path)
}

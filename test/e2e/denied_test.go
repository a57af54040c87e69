//go:build linux

package e2e

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery/test/suite"
	"github.com/kmodquery/kmodquery/test/vm/guest"
)

// recorderGrowth bounds the growth of the recorder's memory by a flood, in KiB.
const recorderGrowth = 16 << 10

// TestGuestFoldsAFloodOfDeniedCalls makes an ordinary user call init_module 500,000
// times, as fast as possible.
func TestGuestFoldsAFloodOfDeniedCalls(t *testing.T) {
	guest.Only(t)
	h := handFile(t, image(t, "dummy"), t.TempDir(), "dummy.ko", "tmpfs")
	latest(t) // starts the recorder, if this is the first test
	require.NoError(t, h.load(""))
	require.NoError(t, guest.Unload("dummy"))
	before, calls := latest(t), suite.Repeat(500_000)
	earlier := query(t, "SELECT eid FROM kernel_module_events ORDER BY eid")
	require.NotEmpty(t, earlier)
	recorder := recorderProc(t)
	// From here on VmHWM is the maximum since now.
	require.NoError(t, os.WriteFile(filepath.Join(recorder, "clear_refs"), []byte("5"), 0))
	held := memory(t, recorder, "VmRSS")

	cmd := ordinary(cast(t, "flood", strconv.Itoa(calls), "of many"))
	require.NoError(t, cmd.Run())
	denied := query(t, "SELECT * FROM kernel_module_events WHERE eid > %d AND error = 'EPERM' ORDER BY eid", before)
	counted := int64(0)
	self := process(t)
	for _, row := range denied {
		counted += integer(t, row["count"])
		requireColumns(t, map[string]string{
			"event_name": "init_module", "result": "-1", "uid": "1000", "euid": "1000",
			"pid": strconv.Itoa(cmd.Process.Pid), "parent": self["pid"],
			"process_path": self["process_path"], "cmdline": commandLine(cmd.Args), "capabilities": "0",
		}, row)
	}
	require.EqualValues(t, calls, counted)
	require.LessOrEqual(t, len(denied), 10, "a row a minute")
	require.Equal(t, earlier, query(t, "SELECT eid FROM kernel_module_events WHERE eid <= %d ORDER BY eid", before))
	t.Logf("the recorder had %d KiB before the flood, at most %d during it, %d after it", held, memory(t, recorder, "VmHWM"), memory(t, recorder, "VmRSS"))
	require.LessOrEqual(t, memory(t, recorder, "VmHWM"), held+recorderGrowth)

	before = latest(t)
	require.NoError(t, h.load(""))
	defer guest.Unload("dummy")
	rows := eventsSince(t, before)
	require.Equal(t, byFile, column(rows, "event_name"))
	for _, row := range rows {
		requireColumns(t, with(imageInfo(t, h.bytes, h.bytes, "valid"), "path", h.path), row)
		require.Empty(t, row["missing"])
	}
}

// TestGuestFoldsDeniedCallsByProgram requires separate rows for each program and call
// of one user.
func TestGuestFoldsDeniedCallsByProgram(t *testing.T) {
	guest.Only(t)
	other := filepath.Join(t.TempDir(), "other")
	binary, err := os.ReadFile("/proc/self/exe")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(other, binary, 0o755))
	require.NoError(t, os.Chmod(filepath.Dir(other), 0o755))
	require.NoError(t, os.Chmod(filepath.Dir(filepath.Dir(other)), 0o755))
	before := latest(t)
	require.NoError(t, ordinary(cast(t, "flood", "3")).Run())
	cmd := ordinary(cast(t, "flood", "4"))
	cmd.Path = other
	require.NoError(t, cmd.Run())
	rows := query(t, `SELECT process_path, uid, sum(count) AS n FROM kernel_module_events
		WHERE eid > %d AND error = 'EPERM' GROUP BY process_path, uid ORDER BY n`, before)
	require.Equal(t, []map[string]string{
		{"process_path": link(t, "/proc/self/exe"), "uid": "1000", "n": "3"},
		{"process_path": other, "uid": "1000", "n": "4"},
	}, rows)
}

// TestGuestCountsDeniedCallsOfManyUsers makes calls by more users than can be counted
// separately.
func TestGuestCountsDeniedCallsOfManyUsers(t *testing.T) {
	guest.Only(t)
	const users = 2500
	before := latest(t)
	require.NoError(t, cast(t, "users", "10000", strconv.Itoa(users)).Run())
	sums := query(t, "SELECT sum(count) AS n FROM kernel_module_events WHERE eid > %d AND error = 'EPERM' AND event_name = 'init_module'", before)
	require.Equal(t, []map[string]string{{"n": strconv.Itoa(users)}}, sums)
	wrong := query(t, "SELECT * FROM kernel_module_events WHERE eid > %d AND error = 'EPERM' AND uid IS NOT NULL AND count != 1", before)
	require.Empty(t, wrong, "a row for several users names none")
	nameless := query(t, "SELECT * FROM kernel_module_events WHERE eid > %d AND error = 'EPERM' AND uid IS NULL", before)
	for _, row := range nameless {
		requireMissing(t, row, "uid", "process_path", "cmdline")
	}
	named := query(t, "SELECT count(DISTINCT uid) AS users, min(uid) AS least FROM kernel_module_events WHERE eid > %d AND error = 'EPERM'", before)
	t.Logf("%s users have rows of their own", named[0]["users"])
	require.Equal(t, "10000", named[0]["least"])

	// Users without further calls make room for others.
	for range 10 {
		before = latest(t)
	}
	require.NoError(t, cast(t, "users", "20000", "1").Run())
	rows := eventsSince(t, before)
	require.Len(t, rows, 1)
	requireColumns(t, map[string]string{"uid": "20000", "count": "1", "process_path": link(t, "/proc/self/exe")}, rows[0])
}

// TestGuestCountsDeniedCallsWithoutARecorder makes denied calls while no recorder runs,
// before a recorder that adopts the pinned programs and before one that replaces them.
func TestGuestCountsDeniedCallsWithoutARecorder(t *testing.T) {
	needPinned(t)
	const users = 1500
	p, done := newDeployment(t), 0
	deny := func(first, n int) {
		t.Helper()
		require.NoError(t, cast(t, "users", strconv.Itoa(first), strconv.Itoa(n)).Run())
		done += n
	}
	// A replaced set is counted when its records are read, some seconds after its successor
	// is active.
	requireAll := func() {
		t.Helper()
		var rows []map[string]string
		require.Eventually(t, func() (ok bool) {
			var err error
			rows, err = p.host.Query(t.Context(), "SELECT coalesce(sum(count), 0) AS n FROM kernel_module_events WHERE source = 'ebpf' AND error = 'EPERM'")
			return err == nil && len(rows) == 1 && rows[0]["n"] == strconv.Itoa(done)
		}, busyLimit, time.Second, "%d calls: %v", done, &rows)
	}
	recorder := p.startRecorder(t, guestExtension)
	p.awaitActive(t)
	builds := []string{otherExtension, otherExtension, guestExtension}
	for round, build := range builds[:rounds(t, 1, 3, 3)] {
		deny(5000, 1)
		requireAll()
		deny(5001, 1)
		recorder.kill(t)
		deny(10_000+users*round, users)
		recorder = p.startRecorder(t, build)
		p.awaitActive(t)
		requireAll()
	}
	recorder.terminate(t)
	recorder = p.startRecorder(t, builds[0])
	p.awaitActive(t)
	requireAll()
	recorder.terminate(t)
}

// recorderProc returns the extension's folder in /proc.
func recorderProc(t *testing.T) string {
	t.Helper()
	return filepath.Join("/proc", strconv.Itoa(shared(t).extension.PID()))
}

// memory returns a size from /proc/PID/status, in KiB.
func memory(t *testing.T, proc, field string) int64 {
	t.Helper()
	size, ok := strings.CutSuffix(status(t, proc)[field], " kB")
	require.True(t, ok)
	return integer(t, strings.TrimSpace(size))
}

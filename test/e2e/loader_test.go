//go:build linux

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery/test/suite"
	"github.com/kmodquery/kmodquery/test/vm/guest"
)

const (
	// maxAncestors and maxCommandLine are the limits of the columns.
	maxAncestors   = 16
	maxCommandLine = 4096
)

// alreadyLoaded loads dummy and writes its file. The kernel reads every further load of
// the file in full and refuses it.
func alreadyLoaded(t *testing.T) (path string) {
	t.Helper()
	h := handFile(t, image(t, "dummy"), t.TempDir(), "dummy.ko", "tmpfs")
	require.NoError(t, h.load(""))
	t.Cleanup(func() { guest.Unload("dummy") })
	return h.path
}

// TestGuestDescribesLoadersThatHaveEnded runs insmod many times, each through a shell of
// its own. The processes have ended before they could be read from /proc.
func TestGuestDescribesLoadersThatHaveEnded(t *testing.T) {
	guest.Only(t)
	path, runs := alreadyLoaded(t), suite.Trials(suite.Repeat(500))
	script := filepath.Join(t.TempDir(), "runs.sh")
	require.NoError(t, os.WriteFile(script, []byte(`
		run=0
		while [ $run -lt $1 ]; do
			sh -c 'echo $$; insmod $1 run=$2; :' sh $2 $run 2>/dev/null
			run=$((run+1))
		done
	`), 0o600))
	before := latest(t)
	cmd := exec.CommandContext(t.Context(), "sh", script, strconv.Itoa(runs), path)
	cmd.Dir = "/run"
	out, err := cmd.Output()
	require.NoError(t, err)
	shells := strings.Fields(string(out))
	require.Len(t, shells, runs)

	self := ancestor{PID: os.Getpid(), Path: link(t, "/proc/self/exe"), Comm: status(t, "/proc/self")["Name"]}
	above := append([]ancestor{{PID: cmd.Process.Pid, Path: "/usr/bin/dash", Comm: "sh"}, self}, ancestorsOf(t, self.PID)...)
	var want, got []string
	for run, shell := range shells {
		pid, err := strconv.Atoi(shell)
		require.NoError(t, err)
		chain := append([]ancestor{{PID: pid, Path: "/usr/bin/dash", Comm: "sh"}}, above...)
		for _, event := range []string{"security_kernel_read_file", "finit_module"} {
			want = append(want, fmt.Sprintf("%s parent %d: /usr/bin/kmod %q in /run %+v missing ()",
				event, pid, fmt.Sprintf("insmod %s run=%d", path, run), chain))
		}
	}
	rows := query(t, `SELECT event_name, parent, process_path, cmdline, cwd, ancestors, missing
		FROM kernel_module_events WHERE eid > %d AND process_name = 'insmod' ORDER BY eid`, before)
	for _, row := range rows {
		got = append(got, fmt.Sprintf("%s parent %s: %s %q in %s %+v missing (%s)",
			row["event_name"], row["parent"], row["process_path"], row["cmdline"], row["cwd"], parseAncestors(t, row["ancestors"]), row["missing"]))
	}
	for i := range min(len(want), len(got)) {
		require.Equal(t, want[i], got[i], "row %d", i)
	}
	require.Len(t, got, len(want))
}

// TestGuestDescribesLoadersWhoseFirstThreadHasExited loads a file from another thread, and
// from a child of such a process.
func TestGuestDescribesLoadersWhoseFirstThreadHasExited(t *testing.T) {
	guest.Only(t)
	path := alreadyLoaded(t)
	before := latest(t)
	cmd := cast(t, "headless", path)
	require.Error(t, cmd.Run(), "it is loaded already")
	self := process(t)
	rows := eventsSince(t, before)
	require.Equal(t, []string{"security_kernel_read_file", "finit_module", "security_kernel_read_file", "finit_module"}, column(rows, "event_name"))
	chain := append([]ancestor{{PID: os.Getpid(), Path: self["process_path"], Comm: status(t, "/proc/self")["Name"]}},
		ancestorsOf(t, os.Getpid())...)
	for i, row := range rows {
		want := map[string]string{
			"pid": strconv.Itoa(cmd.Process.Pid), "parent": self["pid"], "process_path": self["process_path"],
			"cmdline": commandLine(cmd.Args), "cwd": "/", "uid": "0",
		}
		if i == 2 {
			chain = append([]ancestor{{PID: cmd.Process.Pid, Path: self["process_path"], Comm: "init"}}, chain...)
		}
		if i >= 2 {
			want = map[string]string{"process_path": "/usr/bin/kmod", "parent": strconv.Itoa(cmd.Process.Pid), "cmdline": "insmod " + path}
		}
		requireColumns(t, want, row)
		require.Empty(t, row["missing"])
		require.Equal(t, chain, parseAncestors(t, row["ancestors"]))
	}
}

// TestGuestDescribesTheLoader starts a loader without a shell and compares every column
// about it.
func TestGuestDescribesTheLoader(t *testing.T) {
	guest.Only(t)
	path := alreadyLoaded(t)
	long := strings.Repeat("0123456789abcde ", 640)
	room := maxCommandLine - len("load "+path+" ") - len("\x00")
	for _, test := range []struct {
		name    string
		args    []string // after the file
		shown   string   // as the table shows them
		missing string
	}{
		{"no arguments", nil, "", ""},
		{"an empty argument", []string{"", "last"}, "  last", ""},
		{"control characters", []string{"\x1b]0;title\a", "two\nlines\ttabs", "\x7f"}, ` \x1b]0;title\x07 two\x0alines\x09tabs \x7f`, ""},
		{"no UTF-8", []string{"\xff\xfe\x80", "é"}, ` \xff\xfe\x80 é`, ""},
		{"as many bytes as fit", []string{long[:room]}, " " + long[:room], ""},
		{"more bytes than fit", []string{long[:room+2]}, " " + long[:room+1], "cmdline"},
		{"ten kilobytes", []string{long}, " " + long[:room+1], "cmdline"},
		{"ten kilobytes in a thousand arguments", strings.Fields(long + long), " " + long[:room+1], "cmdline"},
	} {
		t.Run(test.name, func(t *testing.T) {
			cmd := cast(t, "load", append([]string{path}, test.args...)...)
			cmd.Args[0] = "load" // it need not be the program's path
			cmd.Stderr = nil
			before := latest(t)
			require.Error(t, cmd.Run(), "it is loaded already")
			self := process(t)
			want := map[string]string{
				"pid": strconv.Itoa(cmd.Process.Pid), "parent": self["pid"],
				"process_path": self["process_path"], "cmdline": "load " + path + test.shown, "cwd": "/",
				"uid": "0", "auid": self["auid"], "session_id": self["session_id"],
				"capabilities": self["capabilities"], "cgroup": self["cgroup"],
				"mnt_ns": self["mnt_ns"], "pid_ns": self["pid_ns"], "user_ns": self["user_ns"],
			}
			if test.missing != "" {
				want["missing"] = test.missing
			}
			rows := eventsSince(t, before)
			require.Equal(t, []string{"security_kernel_read_file", "finit_module"}, column(rows, "event_name"))
			chain := append([]ancestor{{PID: os.Getpid(), Path: self["process_path"], Comm: status(t, "/proc/self")["Name"]}},
				ancestorsOf(t, os.Getpid())...)
			for _, row := range rows {
				requireColumns(t, want, row)
				require.Equal(t, test.missing, row["missing"])
				require.Empty(t, row["container_id"])
				require.Empty(t, row["requested_by"])
				require.Equal(t, chain, parseAncestors(t, row["ancestors"]))
			}
		})
	}
}

// TestGuestNamesTheLoginOfALoader sets a login UID, as sshd's PAM does, and drops
// capabilities.
func TestGuestNamesTheLoginOfALoader(t *testing.T) {
	guest.Only(t)
	path := alreadyLoaded(t)
	before := latest(t)
	// A login UID is permanent, so a separate shell sets it.
	cmd := exec.CommandContext(t.Context(), "sh", "-c", "echo 1000 >/proc/self/loginuid; cat /proc/self/sessionid; insmod $1; :", "sh", path)
	out, err := cmd.Output()
	require.NoError(t, err)
	session := strings.TrimSpace(string(out))
	rows := eventsSince(t, before)
	require.Len(t, rows, 2)
	for _, row := range rows {
		require.Equal(t, "1000", row["auid"])
		require.Equal(t, session, row["session_id"])
		require.NotEqual(t, "4294967295", row["session_id"])
	}
}

// TestGuestAncestorsEndAtTheirLimit runs insmod below an increasing number of shells.
func TestGuestAncestorsEndAtTheirLimit(t *testing.T) {
	guest.Only(t)
	path := alreadyLoaded(t)
	script := filepath.Join(t.TempDir(), "deep.sh")
	require.NoError(t, os.WriteFile(script, []byte(`
		echo $$
		if [ $2 -gt 1 ]; then sh $1 $1 $(($2-1)) $3; else insmod $3; fi
		:
	`), 0o600))
	self := ancestor{PID: os.Getpid(), Path: link(t, "/proc/self/exe"), Comm: status(t, "/proc/self")["Name"]}
	above := append([]ancestor{self}, ancestorsOf(t, self.PID)...)
	full := maxAncestors - len(above)
	for _, shells := range []int{1, full, full + 1, full + 8} {
		t.Run(fmt.Sprintf("%d shells", shells), func(t *testing.T) {
			before := latest(t)
			out, err := exec.CommandContext(t.Context(), "sh", script, script, strconv.Itoa(shells), path).Output()
			require.NoError(t, err)
			var chain []ancestor
			for _, pid := range slices.Backward(strings.Fields(string(out))) {
				chain = append(chain, ancestor{PID: int(integer(t, pid)), Path: "/usr/bin/dash", Comm: "sh"})
			}
			require.Len(t, chain, shells)
			chain = append(chain, above...)
			missing := ""
			if len(chain) > maxAncestors {
				chain, missing = chain[:maxAncestors], "ancestors"
			}
			rows := eventsSince(t, before)
			require.Len(t, rows, 2)
			for _, row := range rows {
				require.Equal(t, chain, parseAncestors(t, row["ancestors"]))
				require.Equal(t, missing, row["missing"])
			}
		})
	}
}

// TestGuestDescribesAnOrphanedLoader loads from a process whose parent has ended, as daemons do.
func TestGuestDescribesAnOrphanedLoader(t *testing.T) {
	guest.Only(t)
	path := alreadyLoaded(t)
	before := latest(t)
	require.NoError(t, exec.CommandContext(t.Context(), "sh", "-c", "(sleep 1; exec insmod $1) &", "sh", path).Run())
	const events = "SELECT * FROM kernel_module_events WHERE eid > %d AND process_name = 'insmod'"
	require.Eventually(t, func() bool { return len(query(t, events, before)) == 2 }, time.Minute, 100*time.Millisecond)
	for _, row := range query(t, events, before) {
		requireColumns(t, map[string]string{"parent": "1", "cmdline": "insmod " + path}, row)
		require.Equal(t, []ancestor{{PID: 1, Path: link(t, "/proc/1/exe"), Comm: status(t, "/proc/1")["Name"]}},
			parseAncestors(t, row["ancestors"]))
		require.Empty(t, row["missing"])
	}
	require.Len(t, findings(t, before), 1)
}

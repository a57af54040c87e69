//go:build linux

package e2e

import (
	"encoding/json"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// An ancestor is an element of the column ancestors.
type ancestor struct {
	PID  int    `json:"pid"`
	Path string `json:"path"`
	Comm string `json:"comm"`
	UID  int    `json:"uid"`
}

// process returns the columns of every event about the calling thread, as /proc shows
// them.
func process(t *testing.T) map[string]string {
	t.Helper()
	row := processOf(t, os.Getpid(), unix.Gettid())
	row["source"] = "ebpf"
	row["boot_id"] = strings.TrimSpace(read(t, "/proc/sys/kernel/random/boot_id"))
	return row
}

// processOf returns the same columns for a thread of a process that has not changed its
// user.
func processOf(t *testing.T, pid, tid int) map[string]string {
	t.Helper()
	proc := path.Join("/proc", strconv.Itoa(pid))
	task := path.Join(proc, "task", strconv.Itoa(tid))
	status := status(t, task)
	effective, err := strconv.ParseUint(status["CapEff"], 16, 64)
	require.NoError(t, err)
	uids, gids := strings.Fields(status["Uid"]), strings.Fields(status["Gid"])
	row := map[string]string{
		"pid": strconv.Itoa(pid), "tid": strconv.Itoa(tid), "parent": status["PPid"],
		"process_name": status["Name"],
		"process_path": link(t, proc+"/exe"),
		"cmdline":      commandLine(strings.Split(strings.TrimSuffix(read(t, proc+"/cmdline"), "\x00"), "\x00")),
		"cwd":          link(t, task+"/cwd"),
		"uid":          uids[0], "euid": uids[1], "gid": gids[0], "egid": gids[1],
		"auid": read(t, proc+"/loginuid"), "session_id": read(t, proc+"/sessionid"),
		"capabilities": strconv.FormatUint(effective, 10),
		"cgroup":       unifiedCgroup(t, proc),
		"ancestors":    jsonOf(t, ancestorsOf(t, pid)),
	}
	for column, file := range map[string]string{"mnt_ns": "mnt", "pid_ns": "pid", "user_ns": "user"} {
		row[column] = namespace(t, task, file)
	}
	return row
}

// commandLine returns arguments as the column cmdline shows them.
func commandLine(args []string) string { return strings.Join(args, " ") }

// ancestorsOf returns the ancestors of a process, from its parent to the first process.
func ancestorsOf(t *testing.T, pid int) []ancestor {
	t.Helper()
	var all []ancestor
	for {
		parent, err := strconv.Atoi(status(t, path.Join("/proc", strconv.Itoa(pid)))["PPid"])
		require.NoError(t, err)
		if parent == 0 {
			return all
		}
		proc := path.Join("/proc", strconv.Itoa(parent))
		of := status(t, proc)
		uid, err := strconv.Atoi(strings.Fields(of["Uid"])[0])
		require.NoError(t, err)
		all = append(all, ancestor{PID: parent, Path: link(t, proc+"/exe"), Comm: of["Name"], UID: uid})
		pid = parent
	}
}

// parseAncestors reads the column ancestors.
func parseAncestors(t *testing.T, text string) []ancestor {
	t.Helper()
	var all []ancestor
	require.NoError(t, json.Unmarshal([]byte(text), &all), "%s", text)
	return all
}

func jsonOf(t *testing.T, value any) string {
	t.Helper()
	text, err := json.Marshal(value)
	require.NoError(t, err)
	return string(text)
}

// requireRow compares whole rows. It ignores the formatting of JSON.
func requireRow(t *testing.T, want, got map[string]string, about ...any) {
	t.Helper()
	want, got = maps.Clone(want), maps.Clone(got)
	for _, name := range []string{"ancestors", "requested_by"} {
		if want[name] != "" && got[name] != "" {
			require.JSONEq(t, want[name], got[name], about...)
			got[name] = want[name]
		}
	}
	require.Equal(t, want, got, about...)
}

// status reads /proc/PID/status.
func status(t *testing.T, proc string) map[string]string {
	t.Helper()
	values := map[string]string{}
	for line := range strings.Lines(read(t, proc+"/status")) {
		name, value, _ := strings.Cut(line, ":")
		values[name] = strings.TrimSpace(value)
	}
	return values
}

// unifiedCgroup returns the path in cgroup v2's hierarchy.
func unifiedCgroup(t *testing.T, proc string) string {
	t.Helper()
	lines := strings.Split(read(t, proc+"/cgroup"), "\n")
	at := slices.IndexFunc(lines, func(line string) bool { return strings.HasPrefix(line, "0::") })
	require.GreaterOrEqual(t, at, 0)
	return strings.TrimPrefix(lines[at], "0::")
}

// namespace returns the inode number of a namespace.
func namespace(t *testing.T, proc, kind string) string {
	t.Helper()
	target := link(t, path.Join(proc, "ns", kind))
	return strings.TrimSuffix(strings.TrimPrefix(target, kind+":["), "]")
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(content)
}

func link(t *testing.T, path string) string {
	t.Helper()
	target, err := os.Readlink(path)
	require.NoError(t, err)
	return target
}

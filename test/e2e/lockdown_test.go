//go:build linux

package e2e

import (
	"maps"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery/test/kmod"
	"github.com/kmodquery/kmodquery/test/vm"
	"github.com/kmodquery/kmodquery/test/vm/guest"
)

// lockdownEnv is set in the VMs that TestLockdown boots.
const lockdownEnv = "KMODQUERY_LOCKDOWN"

// TestLockdown boots kernels that forbid BPF to read the kernel's memory: in make test
// only the oldest, where BPF programs can read the least.
func TestLockdown(t *testing.T) {
	t.Parallel()
	for _, kernel := range kernelsBut("6.12") { // as on arm64
		if isSmall() && kernel.String() != vm.Oldest().String() {
			continue
		}
		t.Run(kernel.String(), func(t *testing.T) {
			t.Parallel()
			vm.Test(t, kernel, "^TestGuestReportsLoadsInLockdown$", vm.Options{
				Files:   map[string]string{guestExtension: buildExtension(t, kernel.Arch)},
				Cmdline: []string{"lockdown=confidentiality"},
				Env:     []string{lockdownEnv + "=1"},
			})
		})
	}
}

// unreadable returns the columns that missing names in every row of a kernel in
// lockdown.
func unreadable() []string {
	columns := []string{"pid_ns", "cgroup", "container_id", "requested_by", "process_path", "cmdline", "cwd", "ancestors"}
	if !readsTask() {
		columns = append(columns, "parent", "euid", "egid", "auid", "session_id", "capabilities", "mnt_ns", "user_ns")
	}
	return columns
}

// readsTask reports whether a BPF program can read the current task without the helpers
// that lockdown forbids: from 5.11 on.
func readsTask() bool { return guest.Kernel() != "5.10" }

// seesCalls reports whether the returns of the system calls can be traced
// without kprobes.
func seesCalls() bool { return guest.Kernel() != "6.1" }

// TestGuestReportsLoadsInLockdown loads in both ways where BPF must not read memory.
// Every load is reported, and missing names the unknown columns.
func TestGuestReportsLoadsInLockdown(t *testing.T) {
	guest.Only(t)
	if os.Getenv(lockdownEnv) == "" {
		t.Skip("runs in the VMs that TestLockdown boots with lockdown=confidentiality")
	}
	signed := image(t, "dummy")
	unsigned, err := kmod.Strip(signed)
	require.NoError(t, err)
	for _, test := range []struct {
		name   string
		image  []byte
		status string
	}{{"signed", signed, "valid"}, {"unsigned", unsigned, "unsigned"}} {
		for _, byFile := range []bool{true, false} {
			way := map[bool]string{true: " in a file", false: " in memory"}[byFile]
			t.Run(test.name+way, func(t *testing.T) { loadLocked(t, test.image, test.status, byFile) })
		}
	}
	t.Run("denied", deniedLocked)
	t.Run("by a process whose first thread has exited", headlessLocked)
	t.Run("inventory", inventoryLocked)

	sensor := query(t, "SELECT * FROM kernel_module_sensors WHERE source = 'ebpf'")
	require.Len(t, sensor, 1)
	requireColumns(t, map[string]string{
		"state": "active", "role": "recorder", "lost": "0", "filtered": "0", "decode_errors": "0",
	}, sensor[0])
	require.Empty(t, sensor[0]["reason"])
	require.Contains(t, sensor[0]["hooks"], `"security_kernel_read_file (fentry)"`)
	require.NotContains(t, sensor[0]["hooks"], "kprobe")
}

func headlessLocked(t *testing.T) {
	if !readsTask() {
		t.Skip("on this kernel the programs cannot read the process")
	}
	path := alreadyLoaded(t)
	before := latest(t)
	require.Error(t, cast(t, "headless", path).Run(), "it is loaded already")
	rows := query(t, "SELECT process_path, ancestors FROM kernel_module_events WHERE eid > %d AND event_name = 'finit_module' ORDER BY eid", before)
	require.Len(t, rows, 2)
	require.Equal(t, strings.TrimPrefix(process(t)["process_path"], "/"), rows[0]["process_path"])
	require.Equal(t, parseAncestors(t, rows[0]["ancestors"]), parseAncestors(t, rows[1]["ancestors"])[1:])
}

// loadLocked loads a module, and unloads it if that succeeds.
func loadLocked(t *testing.T, content []byte, status string, byFile bool) {
	want := map[string]string{
		"name": "dummy", "pid": strconv.Itoa(os.Getpid()), "uid": "0", "gid": "0", "process_name": "init",
		"signature_status": status, "size": strconv.Itoa(len(content)), "type": "kernel-module", "count": "1",
	}
	if readsTask() {
		for _, column := range []string{"parent", "euid", "egid", "auid", "session_id", "capabilities", "mnt_ns", "user_ns"} {
			want[column] = process(t)[column]
		}
	}
	missing := unreadable()
	events := []string{"security_kernel_load_data", "module_load", "init_module"}
	load := func() error { return guest.LoadImage(content, "numdummies=2") }
	if byFile {
		events = []string{"security_kernel_read_file", "module_load", "finit_module"}
		path := "/usr/lib/locked.ko"
		require.NoError(t, os.WriteFile(path, content, 0o600))
		defer os.Remove(path)
		load = func() error { return guest.LoadFile(path, "numdummies=2") }
		maps.Copy(want, with(imageInfo(t, content, content, status), "hash_source", "file"))
		want["origin"], want["path"], want["flags"] = "file", strings.TrimPrefix(path, "/"), "0"
		missing = append(missing, "path", "filesystem")
	} else {
		want["origin"] = "memory"
		missing = append(missing, "sha256", "image_sha256", "vermagic", "license", "intree",
			"signer", "signature_key_id", "signature_hash", "first_seen", "changed", "version", "srcversion")
		if !readsTask() {
			missing = append(missing, "origin")
		}
	}
	if status == "unsigned" {
		events = []string{events[0], events[2]}
		want["error"], want["result"] = "EPERM", "-1"
		if !byFile {
			delete(want, "name")
			want["signature_status"] = "unknown"
			missing = append(missing, "name")
		}
	}
	before := latest(t)
	err := load()
	rows := eventsSince(t, before)
	require.Equal(t, events, column(rows, "event_name"))
	for i, row := range rows {
		requireColumns(t, want, row)
		require.Equal(t, rows[0]["load_id"], row["load_id"])
		expected := missing
		if i > 0 {
			expected = append(missing[:len(missing):len(missing)], "params")
		}
		require.ElementsMatch(t, expected, strings.Split(row["missing"], ","), row["event_name"])
	}
	found := findings(t, before)
	require.Len(t, found, 1)
	require.Equal(t, want["sha256"], found[0]["sha256"])
	if status == "unsigned" {
		require.ErrorIs(t, err, unix.EPERM)
		return
	}
	require.NoError(t, err)
	require.Equal(t, "0", rows[2]["result"])
	require.Equal(t, "0", rows[1]["taints"])

	before = latest(t)
	require.NoError(t, guest.Unload("dummy"))
	rows = eventsSince(t, before)
	require.Equal(t, []string{"module_free", "delete_module"}, column(rows, "event_name"))
	require.Equal(t, "dummy", rows[0]["name"])
	require.ElementsMatch(t, append(unreadable(), "version", "srcversion"), strings.Split(rows[0]["missing"], ","))
	requireColumns(t, map[string]string{"name": "dummy", "result": "0", "load_id": rows[0]["load_id"]}, rows[1])
	require.ElementsMatch(t, append(unreadable(), "flags"), strings.Split(rows[1]["missing"], ","))
	require.Empty(t, findings(t, before))
}

// deniedLocked makes calls that reach only the hook of the system call.
func deniedLocked(t *testing.T) {
	before := latest(t)
	require.ErrorIs(t, guest.Unload("nosuch"), unix.ENOENT)
	unprivileged(t, func() {
		for range 3 {
			require.ErrorIs(t, guest.LoadImage([]byte("x"), ""), unix.EPERM)
		}
	})
	var got []string
	for _, row := range eventsSince(t, before) {
		got = append(got, strings.Join([]string{row["event_name"], row["error"], row["uid"], row["count"]}, " "))
		requireMissing(t, row, unreadable()...)
	}
	want := []string{"delete_module ENOENT 0 1", "init_module EPERM 0 3"}
	if !seesCalls() {
		want = nil
	}
	require.Equal(t, want, got)
}

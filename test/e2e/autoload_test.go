//go:build linux

package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery/test/kmod"
	"github.com/kmodquery/kmodquery/test/vm/guest"
)

// TestGuestAutoloadNamesItsRequester makes the kernel load a module for an ordinary
// user.
func TestGuestAutoloadNamesItsRequester(t *testing.T) {
	guest.Only(t)
	for _, test := range []struct {
		name    string
		cmd     *exec.Cmd
		request string
		module  string
	}{
		{"a socket", ordinary(cast(t, "socket", "an", "argument")), "net-pf-38", "af_alg"},
		{"a filesystem, mounted in a user namespace", inUserNamespace(ordinary(cast(t, "mount"))), "fs-romfs", "romfs"},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := latest(t)
			require.NoError(t, test.cmd.Run())
			defer guest.Unload(test.module)
			self := process(t)
			pid := strconv.Itoa(test.cmd.Process.Pid)
			requests := query(t, "SELECT * FROM kernel_module_events WHERE eid > %d AND event_name = 'module_request'", before)
			require.Len(t, requests, 1)
			request := requests[0]
			requireColumns(t, map[string]string{
				"name": test.request,
				"pid":  pid, "parent": self["pid"], "uid": "1000", "process_name": "init",
				"process_path": self["process_path"], "cmdline": commandLine(test.cmd.Args), "cwd": "/",
				"cgroup": self["cgroup"], "count": "1",
			}, request)
			require.NotEmpty(t, request["load_id"])
			require.Empty(t, request["missing"])
			require.Empty(t, request["sha256"])

			loads := query(t, "SELECT * FROM kernel_module_events WHERE eid > %d AND name = '%s' ORDER BY eid", before, test.module)
			require.Equal(t, byFile, column(loads, "event_name"))
			for _, row := range loads {
				requireColumns(t, map[string]string{
					"name": test.module, "parent_load_id": request["load_id"],
					"process_name": "modprobe", "process_path": "/usr/bin/kmod",
					"cmdline": "/sbin/modprobe -q -- " + test.request,
					"uid":     "0", "auid": "4294967295", "session_id": "4294967295",
					"origin": "file", "signature_status": "valid", "hash_source": "kernel",
				}, row)
				require.NotEqual(t, request["load_id"], row["load_id"])
				requester := requesterOf(t, row)
				require.Equal(t, requestedBy{PID: test.cmd.Process.Pid, Path: self["process_path"], Comm: "init", UID: 1000}, requester)
				requireStartedByKernel(t, row)
				require.Empty(t, row["missing"])
			}
			require.Len(t, findings(t, before), 1)
		})
	}
}

// TestGuestModprobeByHandHasNoRequester loads a module that the kernel requested a
// moment ago without success. This load has no requester.
func TestGuestModprobeByHandHasNoRequester(t *testing.T) {
	guest.Only(t)
	hidden := "/sbin/modprobe.hidden"
	require.NoError(t, os.Rename("/sbin/modprobe", hidden))
	err := cast(t, "socket").Run()
	require.NoError(t, os.Rename(hidden, "/sbin/modprobe"))
	require.Error(t, err, "no program can load the module")

	before := latest(t)
	require.NoError(t, exec.CommandContext(t.Context(), "modprobe", "af_alg").Run())
	require.NoError(t, guest.Unload("af_alg"))
	// A load may wait for its image when its unloading is already stored.
	rows := query(t, "SELECT * FROM kernel_module_events WHERE eid > %d ORDER BY time_nanos, eid", before)
	require.Equal(t, append(slices.Clone(byFile), "module_free", "delete_module"), column(rows, "event_name"))
	for _, row := range rows {
		require.Empty(t, row["requested_by"])
		require.Empty(t, row["parent_load_id"])
	}
}

// TestGuestAProgramThatAnInitStartsHasItsLoadAsTheCause loads a module whose init has the
// kernel start a script, which loads another module.
func TestGuestAProgramThatAnInitStartsHasItsLoadAsTheCause(t *testing.T) {
	guest.Only(t)
	require.NoError(t, os.WriteFile("/run/kmodquery-helper", []byte("#!/bin/sh\n/sbin/modprobe af_alg\n"), 0o755))
	image, err := kmod.Build(kmod.Helper, nil)
	require.NoError(t, err)
	before := latest(t)
	require.NoError(t, guest.LoadImage(image, ""))
	defer guest.Unload("kmodquery_helper")
	require.NoError(t, guest.Unload("af_alg"))

	outer := query(t, "SELECT DISTINCT load_id, parent_load_id, requested_by FROM kernel_module_events WHERE eid > %d AND name = 'kmodquery_helper'", before)
	require.Len(t, outer, 1)
	require.Empty(t, outer[0]["parent_load_id"]+outer[0]["requested_by"])
	loads := query(t, "SELECT * FROM kernel_module_events WHERE eid > %d AND name = 'af_alg' AND event_name NOT IN ('module_free', 'delete_module') ORDER BY eid", before)
	require.Equal(t, byFile, column(loads, "event_name"))
	for _, row := range loads {
		require.Equal(t, outer[0]["load_id"], row["parent_load_id"])
		require.Empty(t, row["requested_by"])
		missing := strings.Split(row["missing"], ",")
		require.NotContains(t, missing, "requested_by")
		require.NotContains(t, missing, "parent_load_id")
		require.NotEqual(t, outer[0]["load_id"], row["load_id"])
	}
}

// TestGuestNamesARequesterThatIsUnknown requests a module of a kernel.modprobe that has
// ended before the loader that it left behind loads the module.
func TestGuestNamesARequesterThatIsUnknown(t *testing.T) {
	guest.Only(t)
	const setting, program = "/proc/sys/kernel/modprobe", "/run/kmodquery-modprobe"
	require.NoError(t, os.WriteFile(program, []byte("#!/bin/sh\n(while kill -0 $$; do :; done; exec /sbin/modprobe -- \"$3\") &\n"), 0o755))
	require.NoError(t, os.WriteFile(setting, []byte(program), 0o644))
	defer func() { require.NoError(t, os.WriteFile(setting, []byte("/sbin/modprobe"), 0o644)) }()

	before := latest(t)
	require.Error(t, cast(t, "socket").Run(), "the module is loaded later")
	require.Eventually(t, func() bool { return guest.Unload("af_alg") == nil }, time.Minute, 50*time.Millisecond)
	loads := query(t, "SELECT * FROM kernel_module_events WHERE eid > %d AND name = 'af_alg' AND event_name NOT IN ('module_free', 'delete_module') ORDER BY eid", before)
	require.Equal(t, byFile, column(loads, "event_name"))
	for _, row := range loads {
		require.Equal(t, "/sbin/modprobe -- net-pf-38", row["cmdline"])
		require.Empty(t, row["requested_by"]+row["parent_load_id"])
		require.Equal(t, "requested_by", row["missing"])
		require.Equal(t, 1, parseAncestors(t, row["ancestors"])[0].PID)
	}
}

// requestedBy is the column requested_by.
type requestedBy struct {
	PID  int    `json:"pid"`
	Path string `json:"path"`
	Comm string `json:"comm"`
	UID  int    `json:"uid"`
}

func requesterOf(t *testing.T, row map[string]string) requestedBy {
	t.Helper()
	var r requestedBy
	require.NoError(t, json.Unmarshal([]byte(row["requested_by"]), &r), "%q", row["requested_by"])
	return r
}

// requireStartedByKernel requires only kernel threads above the process, as for the
// kernel's helpers.
func requireStartedByKernel(t *testing.T, row map[string]string) {
	t.Helper()
	chain := parseAncestors(t, row["ancestors"])
	require.NotEmpty(t, chain)
	require.Equal(t, row["parent"], strconv.Itoa(chain[0].PID))
	for _, thread := range chain[:len(chain)-1] {
		require.Empty(t, thread.Path)
		require.True(t, strings.HasPrefix(thread.Comm, "kworker/"), "%+v", thread)
	}
	require.Equal(t, ancestor{PID: 2, Comm: "kthreadd"}, chain[len(chain)-1])
}

// inUserNamespace makes the command root in a user namespace and a mount namespace of
// its own.
func inUserNamespace(cmd *exec.Cmd) *exec.Cmd {
	uid, gid := int(cmd.SysProcAttr.Credential.Uid), int(cmd.SysProcAttr.Credential.Gid)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: gid, Size: 1}},
		Credential:  &syscall.Credential{NoSetGroups: true},
	}
	return cmd
}

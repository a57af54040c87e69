//go:build linux

package e2e

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery/test/vm/guest"
)

// containerID is a container's name in docker and similar runtimes.
var containerID = strings.Repeat("0123456789abcdef", 4)

// TestGuestNamesTheContainerOfALoader loads modules in namespaces and control groups
// like those of containers.
func TestGuestNamesTheContainerOfALoader(t *testing.T) {
	guest.Only(t)
	for _, test := range []struct {
		name   string
		cgroup string // below the hierarchy's root
		v1     string // the controller whose hierarchy it is, "" for v2
		how    string // how the root is changed
		path   string // of the module, as the mount namespace has it
	}{
		{"docker under systemd", "system.slice/docker-" + containerID + ".scope", "", "pivot_root", "/payload.ko"},
		{"containerd under Kubernetes",
			"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-containerd-" + containerID + ".scope",
			"", "pivot_root", "/payload.ko"},
		// A chroot is not a namespace: the path is not relative to the process's root.
		{"a chroot", "machine.slice/libpod-" + containerID + ".scope", "", "chroot", containerRoot + "/payload.ko"},
		{"docker on cgroup v1", "docker/" + containerID, "pids", "pivot_root", "/payload.ko"},
	} {
		t.Run(test.name, func(t *testing.T) {
			hierarchy := "/sys/fs/cgroup"
			if test.v1 != "" {
				hierarchy = t.TempDir()
				if err := unix.Mount("none", hierarchy, "cgroup", 0, test.v1); err != nil {
					t.Skipf("kernel %s has no cgroup v1: %v", guest.Kernel(), err)
				}
				t.Cleanup(func() { unix.Unmount(hierarchy, unix.MNT_DETACH) })
			}
			group := makeGroup(t, hierarchy, test.cgroup)
			module := handFile(t, image(t, "dummy"), "/run", "dummy.ko", "tmpfs")
			cmd := castContainer(t, group, test.how, module.path)
			before := latest(t)
			cmd.load(t)

			pid := strconv.Itoa(cmd.Process.Pid)
			proc, self := path.Join("/proc", pid), process(t)
			want := map[string]string{
				"container_id": containerID, "path": test.path, "name": "dummy",
				"pid": pid, "parent": self["pid"], "uid": "0",
				"process_path": self["process_path"], "cmdline": commandLine(cmd.Args),
				"mnt_ns": namespace(t, proc, "mnt"), "pid_ns": namespace(t, proc, "pid"), "user_ns": self["user_ns"],
				"filesystem": "tmpfs", "origin": "file", "sha256": sum(module.bytes), "hash_source": "kernel",
			}
			if test.v1 == "" {
				want["cgroup"] = "/" + test.cgroup
			}
			rows := eventsSince(t, before)
			require.Equal(t, byFile, column(rows, "event_name"))
			for _, row := range rows {
				requireColumns(t, want, row)
				require.NotEqual(t, self["mnt_ns"], row["mnt_ns"])
				require.NotEqual(t, self["pid_ns"], row["pid_ns"])
				require.Equal(t, os.Getpid(), parseAncestors(t, row["ancestors"])[0].PID)
				require.Empty(t, row["missing"])
			}
			found := findings(t, before)
			require.Len(t, found, 1)
			require.Equal(t, containerID, found[0]["container_id"])
		})
	}
}

// A container is a process in namespaces and a control group of its own that loads
// dummy on request. It ends with the test.
type container struct {
	*exec.Cmd
	stdin  io.Writer
	stdout *bufio.Reader
}

// castContainer starts one in the control group, with containerRole's
// arguments.
func castContainer(t *testing.T, group, how, module string) *container {
	t.Helper()
	cmd := cast(t, "container", how, module)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID}
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		stdin.Close()
		cmd.Wait()
		guest.Unload("dummy")
	})
	pid := strconv.Itoa(cmd.Process.Pid)
	require.NoError(t, os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte(pid), 0))
	return &container{cmd, stdin, bufio.NewReader(stdout)}
}

func (c *container) load(t *testing.T) {
	t.Helper()
	_, err := io.WriteString(c.stdin, "\n")
	require.NoError(t, err)
	answer, err := c.stdout.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "loaded\n", answer)
}

// makeGroup creates a control group and its parents. They exist until the VM ends.
func makeGroup(t *testing.T, hierarchy, group string) string {
	t.Helper()
	dir := filepath.Join(hierarchy, group)
	require.NoError(t, os.MkdirAll(dir, 0o755))
	return dir
}

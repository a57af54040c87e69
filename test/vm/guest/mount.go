//go:build linux

package guest

import (
	"fmt"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

var mounts = []struct {
	kind, path, options string
	optional            bool // a kernel may lack it or lock it down
}{
	{kind: "proc", path: "/proc"},
	{kind: "sysfs", path: "/sys"},
	{kind: "devtmpfs", path: "/dev"},
	{kind: "devpts", path: "/dev/pts", options: "ptmxmode=0666"},
	{kind: "tmpfs", path: "/dev/shm"},
	{kind: "tmpfs", path: "/run"},
	{kind: "tmpfs", path: "/tmp"},
	{kind: "cgroup2", path: "/sys/fs/cgroup"},
	{kind: "bpf", path: "/sys/fs/bpf", options: "mode=0700", optional: true},
	{kind: "securityfs", path: "/sys/kernel/security", optional: true},
	{kind: "debugfs", path: "/sys/kernel/debug", optional: true},
	{kind: "tracefs", path: "/sys/kernel/tracing", optional: true},
}

func mountAll() error {
	for _, m := range mounts {
		err := os.MkdirAll(m.path, 0o755)
		if err == nil {
			err = unix.Mount(m.kind, m.path, m.kind, 0, m.options)
		}
		if err != nil && m.optional {
			fmt.Fprintf(os.Stderr, "vm init: mount %s on %s: %v\n", m.kind, m.path, err)
		} else if err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.kind, m.path, err)
		}
	}
	return nil
}

// prepare gives the system its host name, loopback interface and command
// names.
func prepare() error {
	if err := unix.Sethostname([]byte("guest")); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	for _, args := range [][]string{
		{"--install", "-s", "/usr/bin"},
		{"ip", "link", "set", "lo", "up"},
	} {
		if out, err := exec.Command("/usr/bin/busybox", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("run busybox %v: %w: %s", args, err, out)
		}
	}
	return nil
}

package doctor

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// PeerOf returns the process at the other end of a connection, or false if it is not known.
func PeerOf(conn net.Conn) (pid int, isKnown bool) {
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return 0, false
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return 0, false
	}
	err = raw.Control(func(fd uintptr) {
		if peer, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(peer.Pid)
		}
	})
	return pid, err == nil && pid > 0 // 0 is a process of another namespace
}

// CommandOf returns the command line of a process, or "".
func CommandOf(pid int) string {
	line, err := Root("/proc").read(fmt.Sprintf("%d/cmdline", pid))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(strings.ReplaceAll(line, "\x00", " "))
}

// holderOf returns the process that holds a lock of flock(2) on a file. To try the lock could
// keep a recorder that starts from taking it.
func holderOf(path string) (pid int, found bool) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	locks, err := Root("/").read("proc/locks")
	if !ok || err != nil {
		return 0, false
	}
	resolved, err := filepath.EvalSymlinks(path)
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(locks) {
		// NUMBER: FLOCK ADVISORY WRITE PID MAJOR:MINOR:INODE START END
		fields := strings.Fields(line)
		if len(fields) < 6 || fields[1] != "FLOCK" || !strings.HasSuffix(fields[5], fmt.Sprintf(":%d", stat.Ino)) {
			continue
		}
		pid, err := strconv.Atoi(fields[4])
		if err == nil && hasOpen(pid, resolved) { // another file system may have this inode
			return pid, true
		}
	}
	return 0, false
}

func hasOpen(pid int, path string) bool {
	links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && target == path {
			return true
		}
	}
	return false
}

package doctor

import (
	"net"
	"slices"

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
		pid, _ = unix.GetsockoptInt(int(fd), unix.SOL_LOCAL, unix.LOCAL_PEERPID)
	})
	return pid, err == nil && pid > 0
}

// CommandOf returns "", because the command line is not read on macOS.
func CommandOf(int) string { return "" }

// holderOf finds nothing out on macOS.
func holderOf(string) (pid int, found bool) { return 0, false }

// Processes returns root's processes that run a program of this name, without arguments.
func Processes(name string) (found []Process, err error) {
	all, err := unix.SysctlKinfoProcSlice("kern.proc.all")
	if err != nil {
		return nil, err
	}
	for _, p := range all {
		if p.Eproc.Ucred.Uid == 0 && unix.ByteSliceToString(p.Proc.P_comm[:]) == name {
			found = append(found, Process{PID: int(p.Proc.P_pid)})
		}
	}
	slices.SortFunc(found, func(a, b Process) int { return a.PID - b.PID })
	return found, nil
}

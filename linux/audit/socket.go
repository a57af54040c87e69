//go:build linux

package audit

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"
	"unsafe"

	libaudit "github.com/elastic/go-libaudit/v2"
	"github.com/elastic/go-libaudit/v2/auparse"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
)

const (
	// socketBuffer is the size of the socket's receive buffer, in bytes as the kernel
	// counts them; a record takes one to two thousand.
	socketBuffer = 16 << 20
	// replyTimeout is how long the kernel may take to reply.
	replyTimeout = 2 * time.Second
	// noAudit is the reason on a host without audit.
	noAudit = "this kernel has no audit"
)

// A socket is a netlink socket to the kernel's audit. libaudit.AuditClient sends its
// requests through one. It sets no timeout for the replies, so Receive has its own.
type socket struct {
	file     *os.File
	conn     syscall.RawConn
	sequence uint32
	buffer   []byte
}

// openSocket opens a socket that receives the multicast groups of the mask.
func openSocket(groups uint32) (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_AUDIT)
	if err != nil {
		return nil, fmt.Errorf("open an audit socket: %w", err)
	}
	file := os.NewFile(uintptr(fd), "audit")
	if groups != 0 {
		// It needs CAP_NET_ADMIN. Without it the system's limit applies.
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, socketBuffer)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		file.Close()
		return nil, fmt.Errorf("bind an audit socket: %w", err)
	}
	conn, err := file.SyscallConn()
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("use an audit socket: %w", err)
	}
	return &socket{file: file, conn: conn, buffer: make([]byte, unix.NLMSG_HDRLEN+libaudit.AuditMessageMaxLength)}, nil
}

// Send sends a request.
func (s *socket) Send(message syscall.NetlinkMessage) (uint32, error) {
	s.sequence++
	message.Header.Seq = s.sequence
	message.Header.Len = uint32(unix.SizeofNlMsghdr + len(message.Data))
	raw := append((*[unix.SizeofNlMsghdr]byte)(unsafe.Pointer(&message.Header))[:], message.Data...)
	var sent error
	err := s.conn.Control(func(fd uintptr) {
		sent = unix.Sendto(int(fd), raw, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	})
	return s.sequence, errors.Join(err, sent)
}

// SendNoWait is like Send, which never waits.
func (s *socket) SendNoWait(message syscall.NetlinkMessage) (uint32, error) {
	return s.Send(message)
}

// Receive waits for one message, for replyTimeout at most. It ignores its first
// argument.
func (s *socket) Receive(_ bool, parse libaudit.NetlinkParser) ([]syscall.NetlinkMessage, error) {
	if err := s.file.SetReadDeadline(time.Now().Add(replyTimeout)); err != nil {
		return nil, err
	}
	message, err := s.read()
	if err != nil {
		return nil, err
	}
	return parse(message)
}

// record waits for a record until the deadline. If there is a record it returns that
// even after the deadline.
func (s *socket) record() (auparse.AuditMessageType, []byte, error) {
	message, err := s.read()
	if err != nil {
		return 0, nil, err
	}
	header := (*unix.NlMsghdr)(unsafe.Pointer(&message[0]))
	return auparse.AuditMessageType(header.Type), message[unix.NLMSG_HDRLEN:], nil
}

// read returns the next message, which is valid until the next call.
func (s *socket) read() ([]byte, error) {
	var n int
	var from unix.Sockaddr
	var received error
	receive := func(fd uintptr) bool {
		n, from, received = unix.Recvfrom(int(fd), s.buffer, unix.MSG_DONTWAIT)
		return received != unix.EAGAIN && received != unix.EINTR
	}
	// conn.Read does not try to read after the deadline.
	done := false
	if err := s.conn.Control(func(fd uintptr) { done = receive(fd) }); err != nil {
		return nil, err
	}
	if !done {
		if err := s.conn.Read(receive); err != nil {
			return nil, err
		}
	}
	if received != nil {
		return nil, received
	}
	// Programs with CAP_NET_ADMIN may send to any port.
	if sender, ok := from.(*unix.SockaddrNetlink); !ok || sender.Pid != 0 || n < unix.NLMSG_HDRLEN {
		return nil, errNotKernels
	}
	return s.buffer[:n], nil
}

// errNotKernels is the error of a message that another program sent.
var errNotKernels = errors.New("message is not the kernel's")

// drops returns how many messages the socket has dropped for lack of room.
func (s *socket) drops() int64 {
	var memory [16]uint32 // SK_MEMINFO_VARS of them, 9 so far
	size := uint32(unsafe.Sizeof(memory))
	const drops = 8 // SK_MEMINFO_DROPS
	_ = s.conn.Control(func(fd uintptr) {
		_, _, _ = unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_MEMINFO,
			uintptr(unsafe.Pointer(&memory)), uintptr(unsafe.Pointer(&size)), 0)
	})
	return int64(memory[drops])
}

// Close closes the socket.
func (s *socket) Close() error { return s.file.Close() }

// A kernelConn is a connection to the kernel's audit.
type kernelConn interface {
	// Record waits for the next record until the deadline, and then returns
	// os.ErrDeadlineExceeded unless there is a record. The text is valid until the
	// next call. It returns unix.ENOBUFS once after records were dropped.
	Record() (auparse.AuditMessageType, []byte, error)
	// SetDeadline may be called while Record waits.
	SetDeadline(time.Time) error
	// Drops returns how many records were dropped since the socket was opened.
	Drops() int64

	Status() (*libaudit.AuditStatus, error)
	SetEnabled(bool) error
	// SetBacklog sets how many records the kernel queues, and how long a system call
	// waits for room, in jiffies.
	SetBacklog(limit, waitTime uint32) error
	// Rules returns the rules of all lists, as struct audit_rule_data.
	Rules() ([][]byte, error)
	// AddRule puts a rule before all others.
	AddRule(rule []byte) error
	DeleteRule(rule []byte) error
	Close() error
}

// A netlinkConn is a connection to the running kernel. It receives records through a
// multicast group, which does not disturb the audit daemon: the kernel never waits for
// readers of the group, and drops records that they have no room for.
type netlinkConn struct {
	records *socket
	control *libaudit.AuditClient
}

// openKernel connects to the kernel, which sends all records from now on. It returns
// an error that matches errForbidden if this process may not read them.
func openKernel() (kernelConn, error) {
	if _, err := os.Stat("/proc/modules"); errors.Is(err, os.ErrNotExist) {
		return nil, &kmodquery.NotSupportedError{Missing: "this kernel cannot load modules", Need: "a kernel built with CONFIG_MODULES"}
	}
	records, err := openSocket(1 << (libaudit.NetlinkGroupReadLog - 1))
	if err != nil {
		return nil, forbidden(err)
	}
	control, err := openSocket(libaudit.NetlinkGroupNone)
	if err != nil {
		return nil, errors.Join(forbidden(err), records.Close())
	}
	k := &netlinkConn{records: records, control: &libaudit.AuditClient{Netlink: control}}
	if _, err := k.Status(); err != nil {
		return nil, errors.Join(forbidden(err), k.Close())
	}
	if err := isInitialNetwork(); err != nil {
		return nil, errors.Join(err, k.Close())
	}
	return k, nil
}

// errForbidden is matched by errors of a process that may not read the kernel's audit,
// on a host that has it.
var errForbidden = errors.New("audit is out of reach")

// forbidden makes errors match errForbidden or kmodquery.ErrNotSupported.
func forbidden(err error) error {
	switch {
	case errors.Is(err, unix.EPROTONOSUPPORT):
		return &kmodquery.NotSupportedError{Missing: noAudit, Need: "CONFIG_AUDIT and CONFIG_AUDITSYSCALL, and no audit=0 on the kernel's command line"}
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%w: %w; run as root, or with CAP_AUDIT_CONTROL and CAP_AUDIT_READ, in the host's process namespace", errForbidden, err)
	case errors.Is(err, unix.ECONNREFUSED):
		return fmt.Errorf("%w: %w; run in the host's user namespace", errForbidden, err)
	}
	return err
}

// isInitialNetwork returns an error in other network namespaces than the kernel's
// first, the only one in which it sends to the multicast group.
func isInitialNetwork() error {
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return nil // a kernel without network namespaces
	}
	first, err := os.Readlink("/proc/1/ns/net")
	if err == nil && own != first {
		return fmt.Errorf("%w: %s is not the host's network namespace; run in that", errForbidden, own)
	}
	return nil
}

func (k *netlinkConn) Record() (auparse.AuditMessageType, []byte, error) { return k.records.record() }

func (k *netlinkConn) SetDeadline(at time.Time) error { return k.records.file.SetReadDeadline(at) }

func (k *netlinkConn) Drops() int64 { return k.records.drops() }

func (k *netlinkConn) Status() (*libaudit.AuditStatus, error) {
	status, err := k.control.GetStatus()
	if err != nil {
		return nil, fmt.Errorf("get audit's status: %w", err)
	}
	return status, nil
}

func (k *netlinkConn) SetEnabled(on bool) error {
	return failed("switch audit on or off", k.control.SetEnabled(on, libaudit.WaitForReply))
}

func (k *netlinkConn) SetBacklog(limit, waitTime uint32) error {
	err := k.control.SetBacklogLimit(limit, libaudit.WaitForReply)
	if err == nil {
		err = k.control.SetBacklogWaitTime(int32(waitTime), libaudit.WaitForReply)
	}
	return failed("set audit's backlog", err)
}

func (k *netlinkConn) Rules() ([][]byte, error) {
	rules, err := k.control.GetRules()
	if err != nil {
		return nil, fmt.Errorf("list audit's rules: %w", err)
	}
	return rules, nil
}

func (k *netlinkConn) AddRule(rule []byte) error {
	first := slices.Clone(rule)
	binary.NativeEndian.PutUint32(first, binary.NativeEndian.Uint32(first)|unix.AUDIT_FILTER_PREPEND)
	return failed("add a rule to audit", k.control.AddRule(first))
}

func (k *netlinkConn) DeleteRule(rule []byte) error {
	return failed("delete a rule of audit", k.control.DeleteRule(rule))
}

// failed adds what was tried to an error, which may be nil.
func failed(action string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", action, err)
	}
	return nil
}

func (k *netlinkConn) Close() error { return errors.Join(k.records.Close(), k.control.Close()) }

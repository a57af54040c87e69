//go:build linux

package audit

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
	"unsafe"

	libaudit "github.com/elastic/go-libaudit/v2"
	"github.com/elastic/go-libaudit/v2/auparse"
	"golang.org/x/sys/unix"
)

const (
	// auditBuffer is the memory that records may wait in, in bytes as the
	// kernel counts them; a record takes one to two thousand.
	auditBuffer = 16 << 20
	// auditReply is how long the kernel may take to answer.
	auditReply = 2 * time.Second
	// noAudit is what a host lacks that has no audit at all.
	noAudit = "this kernel has no audit"
)

// An auditSocket is a netlink socket to the kernel's audit. It serves
// libaudit.AuditClient, which expects a bound on the time that a reply takes
// from whoever reads it.
type auditSocket struct {
	file     *os.File
	conn     syscall.RawConn
	sequence uint32
	buffer   []byte
}

// openAuditSocket joins the groups of the mask.
func openAuditSocket(groups uint32) (*auditSocket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_AUDIT)
	if err != nil {
		return nil, fmt.Errorf("open an audit socket: %w", err)
	}
	file := os.NewFile(uintptr(fd), "audit")
	if groups != 0 {
		// It needs CAP_NET_ADMIN; without, the system's limit holds.
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, auditBuffer)
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
	return &auditSocket{file: file, conn: conn, buffer: make([]byte, unix.NLMSG_HDRLEN+libaudit.AuditMessageMaxLength)}, nil
}

// Send sends a request.
func (s *auditSocket) Send(message syscall.NetlinkMessage) (uint32, error) {
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

// SendNoWait is Send: the kernel takes requests at once.
func (s *auditSocket) SendNoWait(message syscall.NetlinkMessage) (uint32, error) {
	return s.Send(message)
}

// Receive waits for one message, whatever the first argument says, for as long
// as a reply may take.
func (s *auditSocket) Receive(_ bool, parse libaudit.NetlinkParser) ([]syscall.NetlinkMessage, error) {
	if err := s.file.SetReadDeadline(time.Now().Add(auditReply)); err != nil {
		return nil, err
	}
	message, err := s.read()
	if err != nil {
		return nil, err
	}
	return parse(message)
}

// record waits for a record, until the deadline that was set. One that is there
// is returned even if the deadline has passed.
func (s *auditSocket) record() (auparse.AuditMessageType, []byte, error) {
	message, err := s.read()
	if err != nil {
		return 0, nil, err
	}
	header := (*unix.NlMsghdr)(unsafe.Pointer(&message[0]))
	return auparse.AuditMessageType(header.Type), message[unix.NLMSG_HDRLEN:], nil
}

// read returns a message, which is valid until the next.
func (s *auditSocket) read() ([]byte, error) {
	var n int
	var from unix.Sockaddr
	var received error
	receive := func(fd uintptr) bool {
		n, from, received = unix.Recvfrom(int(fd), s.buffer, unix.MSG_DONTWAIT)
		return received != unix.EAGAIN && received != unix.EINTR
	}
	// First without the deadline's consent.
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

// errNotKernels is of a message that another program sent.
var errNotKernels = errors.New("a message that is not the kernel's")

// drops is how many messages found no room.
func (s *auditSocket) drops() int64 {
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
func (s *auditSocket) Close() error { return s.file.Close() }

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// recorderSocket is the name of the socket on which the recorder serves readers of its
// store. Only the owner of the state folder can open it.
const recorderSocket = "recorder.sock"

// maxSocketPath is the length of the longest path that sun_path holds on every platform.
const maxSocketPath = 103

// socketInterval is how often the recorder checks that its socket is at its path.
// It is less than startPatience, so readers wait until a removed socket is back.
const socketInterval = time.Second

// A readerSocket is the recorder's socket for readers of the store. It is created again
// if it was removed. If it cannot be created, the process still records.
type readerSocket struct {
	stateDir string
	records  func() bool // reports whether this process still has the store's lock
	report   func(error)

	listener *net.UnixListener // nil while there is none
	file     fs.FileInfo       // of the listener
	reported string            // the last error that was reported
	end      context.CancelFunc
	running  sync.WaitGroup
}

// openReaderSocket creates the socket and calls share with each new listener, until
// close. While records returns true, a file at the socket's path belongs to a recorder
// that has ended, and is replaced.
func openReaderSocket(stateDir string, records func() bool, report func(error), share func(net.Listener)) *readerSocket {
	s := &readerSocket{stateDir: stateDir, records: records, report: report}
	s.open()
	ctx, end := context.WithCancel(context.Background())
	s.end = end
	s.running.Go(func() { s.run(ctx, share) })
	return s
}

func (s *readerSocket) run(ctx context.Context, share func(net.Listener)) {
	ticker := time.NewTicker(socketInterval)
	defer ticker.Stop()
	for {
		if s.listener != nil {
			go share(s.listener)
		}
		for again := false; !again; again = s.renew() {
			select {
			case <-ctx.Done():
				s.shut()
				return
			case <-ticker.C:
			}
		}
	}
}

// renew creates the socket if it is not at its path, and reports whether it did.
func (s *readerSocket) renew() bool {
	if s.listener != nil {
		if found, err := os.Lstat(s.path()); err == nil && os.SameFile(found, s.file) {
			return false
		}
		s.shut()
		s.reportOnce(fmt.Errorf("%s was removed; it is created again for readers of the event store", s.path()))
	}
	s.open()
	return s.listener != nil
}

// open creates the socket if it can.
func (s *readerSocket) open() {
	if !s.records() {
		return
	}
	listener, err := listenForReaders(s.stateDir)
	if err == nil {
		if s.file, err = os.Lstat(s.path()); err != nil {
			listener.Close()
		}
	}
	if err != nil {
		s.reportOnce(fmt.Errorf("%w; this process records, but others cannot read its latest events", err))
		return
	}
	s.listener, s.reported = listener, ""
}

func (s *readerSocket) shut() {
	if s.listener != nil {
		s.listener.Close()
		s.listener = nil
	}
}

// reportOnce reports an error, once while it stays the same.
func (s *readerSocket) reportOnce(err error) {
	if err.Error() != s.reported {
		s.reported = err.Error()
		s.report(err)
	}
}

func (s *readerSocket) path() string { return filepath.Join(s.stateDir, recorderSocket) }

// close closes the socket.
func (s *readerSocket) close() {
	s.end()
	s.running.Wait()
}

// listenForReaders creates the recorder's socket and replaces the file at its path.
func listenForReaders(stateDir string) (*net.UnixListener, error) {
	path, done, err := socketPath(stateDir)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove a former recorder's socket: %w", err)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for readers of the event store: %w", err)
	}
	// When this listener is closed, the path may belong to another recorder. The next
	// recorder removes the file.
	listener.SetUnlinkOnClose(false)
	// Others may enter a state folder that has other uses, and the umask may be 0.
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("keep others from the recorder's socket: %w", err), listener.Close())
	}
	return listener, nil
}

// startPatience is how long a reader waits for a recorder that has the store's lock but
// does not listen on its socket yet. At its start, a recorder stores events that waited in
// the kernel, for which its Sync waits. A reader that did not wait would miss them.
const (
	startPatience = 5 * time.Second
	startPoll     = 50 * time.Millisecond
)

// dialRecorder returns a function that connects to the process that records.
func dialRecorder(stateDir string) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		for deadline := time.Now().Add(startPatience); ; {
			conn, err := dialOnce(ctx, stateDir)
			isStarting := errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
			if !isStarting || time.Now().After(deadline) {
				return conn, err
			}
			select {
			case <-ctx.Done():
				return nil, err
			case <-time.After(startPoll):
			}
		}
	}
}

func dialOnce(ctx context.Context, stateDir string) (net.Conn, error) {
	path, done, err := socketPath(stateDir)
	if err != nil {
		return nil, err
	}
	defer done()
	return (&net.Dialer{}).DialContext(ctx, "unix", path)
}

// socketPath returns a path of the socket that fits into sun_path. If the path of the
// state folder is too long, the path leads through an open descriptor of the folder,
// which is possible on Linux only. The caller calls done, which closes the descriptor.
func socketPath(stateDir string) (path string, done func(), err error) {
	path = filepath.Join(stateDir, recorderSocket)
	if len(path) <= maxSocketPath {
		return path, func() {}, nil
	}
	if runtime.GOOS != "linux" {
		return "", nil, fmt.Errorf("name the recorder's socket: %s is longer than the %d bytes of a socket's path; choose a state folder with a shorter path", path, maxSocketPath)
	}
	dir, err := os.Open(stateDir)
	if err != nil {
		return "", nil, err
	}
	path = filepath.Join("/proc/self/fd", strconv.Itoa(int(dir.Fd())), recorderSocket)
	return path, func() { dir.Close() }, nil
}

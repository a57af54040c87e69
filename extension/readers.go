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
	"syscall"
	"time"
)

// recorderSocket is where the process that records answers those that read its
// store. The state folder lets nobody in but its owner.
const recorderSocket = "recorder.sock"

// maxSocketPath is what sun_path holds on every platform.
const maxSocketPath = 103

// doorEvery is how often the recorder looks whether its socket is where readers
// look for it. They wait for longer.
const doorEvery = time.Second

// A door is where the process that records lets in those that read its store. It
// is made again where somebody has taken it away, and where it cannot be made the
// process records all the same.
type door struct {
	stateDir string
	records  func() bool // that no other process does
	report   func(error)

	listener *net.UnixListener // nil while there is none
	socket   fs.FileInfo       // its file
	told     string            // what was last reported to be wrong
	end      context.CancelFunc
	ended    chan struct{}
}

// openDoor makes the recorder's socket, at which readers wait until serve. What
// lies there is a dead predecessor's while records holds.
func openDoor(stateDir string, records func() bool, report func(error)) *door {
	d := &door{stateDir: stateDir, records: records, report: report}
	d.open()
	return d
}

// serve has every listener shared with readers until close.
func (d *door) serve(share func(net.Listener)) {
	ctx, end := context.WithCancel(context.Background())
	d.end, d.ended = end, make(chan struct{})
	go func() {
		defer close(d.ended)
		d.run(ctx, share)
	}()
}

func (d *door) run(ctx context.Context, share func(net.Listener)) {
	ticker := time.NewTicker(doorEvery)
	defer ticker.Stop()
	for {
		if d.listener != nil {
			go share(d.listener)
		}
		for again := false; !again; again = d.renew() {
			select {
			case <-ctx.Done():
				d.shut()
				return
			case <-ticker.C:
			}
		}
	}
}

// renew makes the socket where it is not at its path, and reports whether it did.
func (d *door) renew() bool {
	if d.listener != nil {
		if found, err := os.Lstat(d.path()); err == nil && os.SameFile(found, d.socket) {
			return false
		}
		d.shut()
		d.tell(fmt.Errorf("%s was taken away; readers of the event store find another one there", d.path()))
	}
	d.open()
	return d.listener != nil
}

// open makes the socket if it can.
func (d *door) open() {
	if !d.records() {
		return
	}
	listener, err := listenForReaders(d.stateDir)
	if err == nil {
		if d.socket, err = os.Lstat(d.path()); err != nil {
			listener.Close()
		}
	}
	if err != nil {
		d.tell(fmt.Errorf("%w; it records, and other processes cannot ask for what it sees", err))
		return
	}
	d.listener, d.told = listener, ""
}

func (d *door) shut() {
	if d.listener != nil {
		d.listener.Close()
		d.listener = nil
	}
}

// tell reports what is wrong, once.
func (d *door) tell(err error) {
	if err.Error() != d.told {
		d.told = err.Error()
		d.report(err)
	}
}

func (d *door) path() string { return filepath.Join(d.stateDir, recorderSocket) }

// close lets nobody in any more.
func (d *door) close() {
	d.end()
	<-d.ended
}

// listenForReaders makes the recorder's socket, in place of what lies there.
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
	// Its path may mean something else by then; the next recorder removes it.
	listener.SetUnlinkOnClose(false)
	return listener, nil
}

// startPatience is how long the process that records may take from the moment at
// which it has the store to the one at which it answers. What an earlier one left
// in the kernel is stored then, and a reader that did not wait would miss it.
const (
	startPatience = 5 * time.Second
	startPoll     = 50 * time.Millisecond
)

// dialRecorder connects to the process that records.
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

// socketPath names the socket in a way that fits into sun_path: where the state
// folder's own name is too long, through an open descriptor of it, for which Linux
// has a path. done lets go of that.
func socketPath(stateDir string) (path string, done func(), err error) {
	path = filepath.Join(stateDir, recorderSocket)
	if len(path) <= maxSocketPath {
		return path, func() {}, nil
	}
	if runtime.GOOS != "linux" {
		return "", nil, fmt.Errorf("name the recorder's socket: %s is longer than the %d bytes that its path may have; choose a state folder with a shorter one", path, maxSocketPath)
	}
	dir, err := os.Open(stateDir)
	if err != nil {
		return "", nil, err
	}
	path = filepath.Join("/proc/self/fd", strconv.Itoa(int(dir.Fd())), recorderSocket)
	return path, func() { dir.Close() }, nil
}

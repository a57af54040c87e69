package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// recorderSocket is where the process that records answers those that read its
// store. The state folder lets nobody in but its owner.
const recorderSocket = "recorder.sock"

// maxSocketPath is what sun_path holds on every platform.
const maxSocketPath = 103

// listenForReaders makes the recorder's socket. Only the holder of the store's
// lock may call it: what lies there is a dead predecessor's.
func listenForReaders(stateDir string) (net.Listener, error) {
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
// folder's own name is too long, through an open descriptor of it, which Linux
// has in /proc. done lets go of that.
func socketPath(stateDir string) (path string, done func(), err error) {
	path = filepath.Join(stateDir, recorderSocket)
	if len(path) <= maxSocketPath {
		return path, func() {}, nil
	}
	dir, err := os.Open(stateDir)
	if err != nil {
		return "", nil, err
	}
	path = filepath.Join("/proc/self/fd", strconv.Itoa(int(dir.Fd())), recorderSocket)
	return path, func() { dir.Close() }, nil
}

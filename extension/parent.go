package main

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"
)

// parentEvery is how often this process checks whether its parent has ended. osquery
// expects its extensions to end within seconds.
const parentEvery = time.Second

// A parent is the id of the process that started this one.
type parent int

func currentParent() parent { return parent(os.Getppid()) }

// hasEnded reports whether the parent has ended. The kernel then gives its children to
// another process.
func (p parent) hasEnded() bool { return os.Getppid() != int(p) }

// awaitOrphaned returns true once the parent has ended and no process listens on
// osquery's socket: osquery's watcher starts the extensions, and its worker ends with
// it. It returns false when ctx ends. An extension that was started by hand thus
// outlives its shell while osquery runs.
func awaitOrphaned(ctx context.Context, p parent, socket string) bool {
	ticker := time.NewTicker(parentEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-ticker.C:
		}
		if p.hasEnded() && !isListening(socket) {
			return true
		}
	}
}

// isListening reports whether a process listens on a socket, even if it is too busy to
// accept a connection.
func isListening(socket string) bool {
	conn, err := net.DialTimeout("unix", socket, parentEvery)
	if err == nil {
		conn.Close()
	}
	return !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED)
}

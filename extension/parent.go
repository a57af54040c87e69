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

// parentEvery is how often to look whether this process has been orphaned.
// osquery wants its extensions gone within seconds.
const parentEvery = time.Second

// A parent is the process that started this one, by its id.
type parent int

func currentParent() parent { return parent(os.Getppid()) }

// hasEnded reports whether it has: the kernel gives its children to another
// process then, and never to the same one again.
func (p parent) hasEnded() bool { return os.Getppid() != int(p) }

// awaitOrphaned returns true once the parent has ended and nobody listens on
// osquery's socket: osquery's watcher starts its extensions and takes its worker
// with it. It returns false when ctx ends. Whoever runs the extension by hand
// may leave it behind while osquery runs.
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

// isListening reports whether anybody does. One who is too busy to take another
// connection does too.
func isListening(socket string) bool {
	conn, err := net.DialTimeout("unix", socket, parentEvery)
	if err == nil {
		conn.Close()
	}
	return !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED)
}

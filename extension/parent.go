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

// awaitOrphaned returns true once the process that started this one has ended and no
// process listens on osquery's socket. It returns false when ctx ends. osquery's watcher
// starts the extensions and ends together with the worker that listens. An extension that
// was started from a terminal keeps running after that closes, as long as osquery runs.
func awaitOrphaned(ctx context.Context, parent int, socket string) bool {
	ticker := time.NewTicker(parentEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-ticker.C:
		}
		// The kernel gives the children of a process that has ended another parent.
		if os.Getppid() != parent && !isListening(socket) {
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

package osqueryhost

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// children are the extension processes that the host keeps running.
type children struct {
	mu       sync.Mutex
	list     []*Child
	stopping bool
}

// A Child is an extension that the host keeps running.
type Child struct {
	host *Host
	path string
	args []string

	mu     sync.Mutex
	cmd    *exec.Cmd
	exited chan struct{} // closed when cmd has ended
	starts int
}

// StartExtension starts an executable as osqueryd starts those of --extension and
// --extensions_autoload (PlatformProcess::launchExtension, process.cpp), and keeps it
// running until Close. The extra arguments come last. It returns when the process runs;
// use WaitForTable to wait for its tables.
func (h *Host) StartExtension(path string, extra ...string) (*Child, error) {
	var args []string
	if h.options.Verbose {
		args = append(args, "--verbose")
	}
	args = append(args, "--socket", h.options.Socket, "--timeout", seconds(h.options.Timeout), "--interval", seconds(h.options.Interval))
	child := &Child{host: h, path: path, args: append(args, extra...)}

	h.children.mu.Lock()
	defer h.children.mu.Unlock()
	if h.children.stopping {
		return nil, errors.New("start extension: the host was closed")
	}
	if err := child.start(); err != nil {
		return nil, err
	}
	h.children.list = append(h.children.list, child)
	return child, nil
}

// seconds returns a duration as osquery's flags take it, at least one second.
func seconds(d time.Duration) string {
	return strconv.Itoa(int(max(1, d.Round(time.Second)/time.Second)))
}

func (c *Child) start() error {
	cmd := exec.Command(c.path, c.args...)
	cmd.Stdout, cmd.Stderr = c.host.options.Output, c.host.options.Output
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start extension: %w", err)
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait() // it is restarted however it ended
		close(exited)
	}()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cmd, c.exited = cmd, exited
	c.starts++
	return nil
}

func (c *Child) process() (*os.Process, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cmd.Process, c.exited
}

// PID returns the process ID of the latest start.
func (c *Child) PID() int {
	process, _ := c.process()
	return process.Pid
}

// Starts returns how often the process was started.
func (c *Child) Starts() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.starts
}

// Exited is closed when the process of the latest start has ended.
func (c *Child) Exited() <-chan struct{} {
	_, exited := c.process()
	return exited
}

// Signal sends a signal to the process.
func (c *Child) Signal(signal os.Signal) error {
	process, _ := c.process()
	return process.Signal(signal)
}

// PollChildren restarts each extension process that has ended, without a limit
// (WatcherRunner::watchExtensions, watcher.cpp). If a start fails, the next poll tries
// again.
func (h *Host) PollChildren() {
	h.children.mu.Lock()
	defer h.children.mu.Unlock()
	if h.children.stopping {
		return
	}
	for _, child := range h.children.list {
		select {
		case <-child.Exited():
			if err := child.start(); err != nil {
				fmt.Fprintln(h.options.Output, err)
			}
		default:
		}
	}
}

// stop ends all processes. It sends SIGTERM, and SIGKILL to those that do not end in
// time (WatcherRunner::stopChild).
func (c *children) stop(timeout time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopping = true
	var killed []string
	for _, child := range c.list {
		_ = child.Signal(syscall.SIGTERM) // fails only if it has ended
	}
	deadline := time.NewTimer(timeout)
	defer deadline.Stop()
	late := false
	for _, child := range slices.Clone(c.list) {
		_, exited := child.process()
		if !late {
			select {
			case <-exited:
				continue
			case <-deadline.C:
				late = true
			}
		}
		select {
		case <-exited:
		default:
			killed = append(killed, child.path)
			_ = child.Signal(syscall.SIGKILL)
			<-exited
		}
	}
	if killed != nil {
		return fmt.Errorf("stop extensions: not ended %s after SIGTERM and killed: %q", timeout, killed)
	}
	return nil
}

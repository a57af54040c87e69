package shell

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/peterh/liner"
	"golang.org/x/sys/unix"
)

const (
	// lockWait is how long a shell waits for another one to change the history, and lockPoll
	// the interval at which it tries.
	lockWait = time.Second
	lockPoll = 10 * time.Millisecond
)

// A history is a file with one line for each line that was typed, of all shells of a
// user. Each line is written at once: a terminal that is closed ends the shell without
// notice.
type history struct {
	path string
	last string
}

// load returns the last lines. It removes the others once the file has twice as many.
func (h *history) load() (lines []string, err error) {
	err = h.locked(func() error {
		file, err := openHistory(h.path, os.O_RDONLY)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		defer file.Close()
		content, err := io.ReadAll(file)
		if err == nil && len(content) == 0 {
			return nil
		}
		lines = strings.Split(strings.TrimSuffix(string(content), "\n"), "\n")
		count := len(lines)
		lines = lines[max(0, count-liner.HistoryLimit):]
		if err != nil || count <= 2*liner.HistoryLimit {
			return err
		}
		shorter := h.path + ".new"
		if err := os.Remove(shorter); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := appendTo(shorter, strings.Join(lines, "\n")+"\n"); err != nil {
			return err
		}
		return os.Rename(shorter, h.path)
	})
	return lines, err
}

// add adds a line, unless this shell has just added the same.
func (h *history) add(line string) error {
	if line == h.last {
		return nil
	}
	h.last = line
	return h.locked(func() error { return appendTo(h.path, line+"\n") })
}

func appendTo(path, text string) error {
	file, err := openHistory(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND)
	if err != nil {
		return err
	}
	_, err = file.WriteString(text)
	return errors.Join(err, file.Close())
}

// openHistory opens a regular file. It follows no link and does not wait for a pipe's other
// end.
func openHistory(path string, flags int) (*os.File, error) {
	file, err := os.OpenFile(path, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, err
	}
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(fmt.Errorf("%s is not a regular file", path), err, file.Close())
	}
	return file, nil
}

// locked calls f while no other shell changes the file. Any user who may read the folder
// can hold its lock, so locked waits no longer than lockWait.
func (h *history) locked(f func() error) error {
	dir, err := os.Open(filepath.Dir(h.path))
	if err != nil {
		return err
	}
	defer dir.Close()
	for deadline := time.Now().Add(lockWait); ; time.Sleep(lockPoll) {
		err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f()
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return fmt.Errorf("lock %s: %w", dir.Name(), err)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("lock %s: another process holds it: %w", dir.Name(), err)
		}
	}
}

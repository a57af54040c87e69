package shell

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/peterh/liner"
	"golang.org/x/sys/unix"
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
		content, err := os.ReadFile(h.path)
		if errors.Is(err, fs.ErrNotExist) || err == nil && len(content) == 0 {
			return nil
		}
		lines = strings.Split(strings.TrimSuffix(string(content), "\n"), "\n")
		count := len(lines)
		lines = lines[max(0, count-liner.HistoryLimit):]
		if err != nil || count <= 2*liner.HistoryLimit {
			return err
		}
		shorter := h.path + ".new"
		if err := os.WriteFile(shorter, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
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
	return h.locked(func() error {
		file, err := os.OpenFile(h.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			return err
		}
		_, err = file.WriteString(line + "\n")
		return errors.Join(err, file.Close())
	})
}

// locked calls f while no other shell changes the file.
func (h *history) locked(f func() error) error {
	dir, err := os.Open(filepath.Dir(h.path))
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", dir.Name(), err)
	}
	return f()
}

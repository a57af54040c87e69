//go:build linux

package klog

import (
	"compress/gzip"
	"context"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/kmodquery/kmodquery/linux/logfile"
)

const (
	// maxLogLine bounds a line of a log file, in bytes. A longer one is cut, and matches no message.
	maxLogLine = 8 << 10
	// maxInflated bounds what is read of a compressed file.
	maxInflated = 1 << 30
)

// A tail reads the lines of a log file as they are written. If the file is replaced or
// truncated, the tail starts over: it reads the new file from its beginning and all files
// that the log was rotated to since. It may thus read a line twice. Its methods must not be
// called concurrently.
type tail struct {
	path  string
	since time.Time // rotated files last written before are not read
	lost  func()    // called for each rotated file that cannot be read

	current  *logfile.File // nil until there is a file
	previous *logfile.File // replaced by current, which is empty; its writer may still use it
	rotated  []fs.FileInfo
	hasRead  bool // later lines are new
	isThere  bool // the last call of read could open a file at path
}

// read calls take for each complete line that it has not read yet, without its line
// feed. isNew is true if the line was certainly written after the first call of read.
// The line is valid until take returns. It is no error if there is no file, if it may
// not be read, or if ctx ends.
func (t *tail) read(ctx context.Context, take func(line []byte, isNew bool)) error {
	if t.reopen() {
		t.readRotated(ctx, func(line []byte, _ int) { take(line, false) })
	}
	if t.current == nil {
		return nil
	}
	takeLine := func(line []byte, _ int64) { take(line, t.hasRead) }
	if t.previous != nil {
		info, err := t.current.Stat()
		isLast := err != nil || info.Size() > 0 // the writer has noticed the rotation
		if err := t.previous.ReadLines(ctx, false, takeLine); err != nil {
			return err
		}
		if isLast {
			t.previous.Close()
			t.previous = nil
		}
	}
	err := t.current.ReadLines(ctx, false, takeLine)
	t.hasRead = t.hasRead || err == nil
	return err
}

// reopen begins with the file at path if that is another file than before, or was
// truncated. It reports whether it did.
func (t *tail) reopen() bool {
	info, err := os.Stat(t.path)
	isSame := err == nil && t.current != nil && t.current.Is(info)
	if t.isThere = err == nil; !t.isThere || isSame && t.current.IsIn(t.current) {
		return false
	}
	file, err := logfile.Open(t.path, maxLogLine)
	if t.isThere = err == nil; !t.isThere {
		return false
	}
	if isSame {
		t.current.Close()
	} else {
		t.previous.Close()
		t.previous = t.current
	}
	t.current = file
	return true
}

func (t *tail) close() {
	t.previous.Close()
	t.current.Close()
}

// readRotated reads the rotated files that it has not read yet, oldest first.
func (t *tail) readRotated(ctx context.Context, take func(line []byte, size int)) {
	before := t.rotated
	t.rotated = nil
	for _, name := range t.rotatedNames() {
		file, err := logfile.Open(name, maxLogLine)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it was renamed, and path is another file again
		}
		if err != nil {
			t.lost()
			continue
		}
		info, err := file.Stat()
		isSame := func(o fs.FileInfo) bool {
			return os.SameFile(o, info) && o.Size() == info.Size() && o.ModTime().Equal(info.ModTime())
		}
		isRead := err == nil && (info.ModTime().Before(t.since) || slices.ContainsFunc(before, isSame) || t.previous != nil && t.previous.Is(info))
		if err == nil && !isRead {
			err = readWhole(ctx, file.File, take)
		}
		file.Close()
		if err != nil {
			t.lost()
		}
		t.rotated = append(t.rotated, info)
	}
}

// rotatedSuffix is what logrotate and similar programs append to a log's name: a
// number or a date.
var rotatedSuffix = regexp.MustCompile(`^[.-](?:[0-9][0-9._-]*|old)(?:\.gz)?$`)

// rotatedNames returns the rotated files, oldest first.
func (t *tail) rotatedNames() []string {
	written := map[string]time.Time{}
	dir := filepath.Dir(t.path)
	entries, _ := os.ReadDir(dir) // a folder that cannot be read has none
	for _, entry := range entries {
		suffix, ok := strings.CutPrefix(entry.Name(), filepath.Base(t.path))
		if !ok || !rotatedSuffix.MatchString(suffix) {
			continue
		}
		if info, err := entry.Info(); err == nil && info.Mode().IsRegular() {
			written[filepath.Join(dir, entry.Name())] = info.ModTime()
		}
	}
	for name := range written {
		delete(written, name+".gz") // gzip has not finished it
	}
	return slices.SortedFunc(maps.Keys(written), func(a, b string) int { return written[a].Compare(written[b]) })
}

// readWhole reads a rotated file, which may be compressed.
func readWhole(ctx context.Context, file *os.File, take func(line []byte, size int)) error {
	var reader io.Reader = file
	if strings.HasSuffix(file.Name(), ".gz") {
		inflated, err := gzip.NewReader(file)
		if err != nil {
			return err
		}
		reader = io.LimitReader(inflated, maxInflated)
	}
	return logfile.Lines(ctx, reader, maxLogLine, false, take)
}

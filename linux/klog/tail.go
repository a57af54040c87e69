//go:build linux

package klog

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxLogLine bounds a line of a log file, in bytes. A longer one is skipped.
	maxLogLine = 8 << 10
	// maxInflated bounds what is read of a compressed file.
	maxInflated = 1 << 30
)

// A tail reads the lines of a log file as they are written. If the file is replaced or
// lacks the last line that was read, the tail starts over: it reads the new file from its beginning
// and all files that the log was rotated to since. It may thus read a line twice. Its
// methods must not be called concurrently.
type tail struct {
	path  string
	since time.Time // rotated files last written before are not read
	lost  func()    // called for each rotated file that cannot be read

	current  *logFile // nil until there is a file
	previous *logFile // replaced by current, which is empty; its writer may still use it
	rotated  []fs.FileInfo
	isThere  bool // the last call of read could open a file at path
}

// A logFile is an open file and how far it was read.
type logFile struct {
	*os.File
	offset int64
	last   []byte // the line before offset, as far as it was read
	isNew  bool   // its lines are written after the tail's first read
}

// read calls take for each complete line that it has not read yet, without its line
// feed. isNew is true if the line was certainly written after the first call of read.
// The line is valid until take returns. It is no error if there is no file, if it may
// not be read, or if ctx ends.
func (t *tail) read(ctx context.Context, take func(line []byte, isNew bool)) error {
	if info, isChanged := t.isChanged(); isChanged && t.open(info) {
		t.readRotated(ctx, take)
	}
	if t.previous != nil {
		info, err := t.current.Stat()
		isLast := err != nil || info.Size() > 0 // the writer has noticed the rotation
		if err := t.previous.read(ctx, take); err != nil {
			return err
		}
		if isLast {
			t.previous.Close()
			t.previous = nil
		}
	}
	if t.current == nil {
		return nil
	}
	return t.current.read(ctx, take)
}

func (f *logFile) read(ctx context.Context, take func(line []byte, isNew bool)) error {
	n, err := readLines(ctx, io.NewSectionReader(f, f.offset, math.MaxInt64-f.offset), func(line []byte) {
		f.last = append(f.last[:0], line...)
		take(line, f.isNew)
	})
	if f.offset += n; err != nil {
		return fmt.Errorf("read %s: %w", f.Name(), err)
	}
	f.isNew = true
	return nil
}

// isTruncated reports whether the file lacks the last line that was read.
func (f *logFile) isTruncated() bool {
	if f.offset == 0 {
		return false
	}
	last := make([]byte, len(f.last)+1)
	n, err := f.ReadAt(last, f.offset-int64(len(last)))
	return n < len(last) || err != nil && !errors.Is(err, io.EOF) || !bytes.Equal(last, append(f.last, '\n'))
}

// isChanged reports whether path is another file than before, or was truncated.
func (t *tail) isChanged() (fs.FileInfo, bool) {
	info, err := os.Stat(t.path)
	if t.isThere = err == nil; !t.isThere || t.current == nil {
		return info, t.isThere
	}
	return info, !t.current.is(info) || t.current.isTruncated()
}

// open begins with the file at path, and reports whether it could be opened.
func (t *tail) open(info fs.FileInfo) bool {
	file, err := openLog(t.path)
	if t.isThere = err == nil; !t.isThere {
		return false
	}
	isFirst := t.current == nil
	if !isFirst && t.current.is(info) { // it was truncated
		t.current.Close()
	} else {
		if t.previous != nil {
			t.previous.Close()
		}
		t.previous = t.current
	}
	t.current = &logFile{File: file, isNew: !isFirst}
	return true
}

func (f *logFile) is(info fs.FileInfo) bool {
	own, err := f.Stat()
	return err == nil && os.SameFile(own, info)
}

func (t *tail) close() {
	for _, f := range []*logFile{t.previous, t.current} {
		if f != nil {
			f.Close()
		}
	}
}

// readRotated reads the rotated files that it has not read yet, oldest first.
func (t *tail) readRotated(ctx context.Context, take func(line []byte, isNew bool)) {
	before := t.rotated
	t.rotated = nil
	for _, name := range t.rotatedNames() {
		file, err := openLog(name)
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) { // it was renamed, and path is another file again
				t.lost()
			}
			continue
		}
		info, err := file.Stat()
		isSame := func(o fs.FileInfo) bool {
			return os.SameFile(o, info) && o.Size() == info.Size() && o.ModTime().Equal(info.ModTime())
		}
		isRead := err == nil && (info.ModTime().Before(t.since) || slices.ContainsFunc(before, isSame) || t.previous != nil && t.previous.is(info))
		if err == nil && !isRead {
			err = readWhole(ctx, file, func(line []byte) { take(line, false) })
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

// openLog opens a regular file.
func openLog(name string) (*os.File, error) {
	file, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0) // a pipe must not block
	if err != nil {
		return nil, fmt.Errorf("open a log: %w", err)
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file", name)
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("open a log: %w", err)
	}
	return file, nil
}

// readWhole reads a rotated file, which may be compressed.
func readWhole(ctx context.Context, file *os.File, take func(line []byte)) error {
	var reader io.Reader = file
	if strings.HasSuffix(file.Name(), ".gz") {
		inflated, err := gzip.NewReader(file)
		if err != nil {
			return fmt.Errorf("read %s: %w", file.Name(), err)
		}
		reader = io.LimitReader(inflated, maxInflated)
	}
	if _, err := readLines(ctx, reader, take); err != nil {
		return fmt.Errorf("read %s: %w", file.Name(), err)
	}
	return nil
}

// readLines calls take for each line that ends in a line feed, and returns how many
// bytes all those lines have. Of a line that is too long it passes an empty one.
func readLines(ctx context.Context, r io.Reader, take func(line []byte)) (n int64, err error) {
	lines := bufio.NewReaderSize(r, maxLogLine+1)
	for ctx.Err() == nil {
		line, err := lines.ReadSlice('\n')
		size, isLong := len(line), false
		for errors.Is(err, bufio.ErrBufferFull) {
			isLong = true
			line, err = lines.ReadSlice('\n')
			size += len(line)
		}
		switch {
		case errors.Is(err, io.EOF):
			return n, nil
		case err != nil:
			return n, err
		}
		if isLong {
			line = line[len(line)-1:]
		}
		n += int64(size)
		take(line[:len(line)-1])
	}
	return n, nil
}

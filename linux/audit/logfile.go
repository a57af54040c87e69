//go:build linux

package audit

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery/linux/audit/record"
)

// A logFile is an open file of the audit daemon's log and how far it was read.
type logFile struct {
	file   *os.File
	id     fileID
	number int    // the files that were read are numbered
	offset int64  // of the first line that was not read
	last   string // the line before it, by which the file and its copies are recognized
	lastAt int64  // the offset of last
}

// A fileID identifies a file as long as it is open.
type fileID struct{ device, inode uint64 }

func openLogFile(path string, number int) (*logFile, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a fifo must not block
	if err != nil {
		return nil, fmt.Errorf("open the audit log: %w", err)
	}
	f := &logFile{file: file, number: number}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file", path)
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("open the audit log: %w", err)
	}
	f.id = identify(info)
	return f, nil
}

func identify(info fs.FileInfo) fileID {
	stat, _ := info.Sys().(*syscall.Stat_t) // on Linux it is always one
	return fileID{device: stat.Dev, inode: stat.Ino}
}

// read calls take for each line that it has not read yet. It leaves a line without a
// line feed for later, unless the file is complete. Instead of a line that is too long
// it passes an empty one.
func (f *logFile) read(ctx context.Context, isOver bool, take func(line string, start, end record.Place)) error {
	reader := bufio.NewReaderSize(io.NewSectionReader(f.file, f.offset, 1<<62), 64<<10)
	for ctx.Err() == nil {
		line, size, err := readLine(reader)
		if err != nil && (!errors.Is(err, io.EOF) || !isOver || size == 0) {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return fmt.Errorf("read the audit log: %w", err)
		}
		start := record.Place{File: f.number, Offset: f.offset}
		f.last, f.lastAt = line, f.offset
		f.offset += size
		take(line, start, record.Place{File: f.number, Offset: f.offset})
	}
	return nil
}

// readLine returns a line without its line feed, and its size with it. The line is empty
// if it is too long for an audit record.
func readLine(r *bufio.Reader) (line string, size int64, err error) {
	var text []byte
	for {
		part, err := r.ReadSlice('\n')
		size += int64(len(part))
		if len(text)+len(part) <= record.MaxLine+1 {
			text = append(text, part...)
		} else {
			text = text[:0]
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if size > record.MaxLine+1 {
			text = nil
		}
		return strings.TrimSuffix(string(text), "\n"), size, err
	}
}

// seek continues at an offset at which a line begins.
func (f *logFile) seek(offset int64) {
	f.offset, f.last, f.lastAt = offset, "", offset
	before := make([]byte, min(offset, record.MaxLine+1))
	if n, err := f.file.ReadAt(before, offset-int64(len(before))); n < len(before) || err != nil && !errors.Is(err, io.EOF) {
		return
	}
	text, ok := strings.CutSuffix(string(before), "\n")
	if !ok {
		return
	}
	f.last = text[strings.LastIndexByte(text, '\n')+1:]
	f.lastAt = offset - 1 - int64(len(f.last))
}

// isIntact reports whether the file still has the last line that was read. If not, it
// was truncated.
func (f *logFile) isIntact() bool {
	info, err := f.file.Stat()
	return err == nil && info.Size() >= f.offset && f.has(f.last, f.lastAt)
}

// has reports whether the file has a line at an offset.
func (f *logFile) has(line string, at int64) bool {
	text := make([]byte, len(line))
	n, err := f.file.ReadAt(text, at)
	return n == len(text) && (err == nil || errors.Is(err, io.EOF)) && string(text) == line
}

// idAt returns the id of the module call whose record is at an offset.
func (f *logFile) idAt(at int64) (record.ID, bool) {
	line, _, err := readLine(bufio.NewReaderSize(io.NewSectionReader(f.file, at, record.MaxLine+1), 4<<10))
	if err != nil && !errors.Is(err, io.EOF) {
		return record.ID{}, false
	}
	r, err := record.ParseLine(line)
	return r.ID, err == nil && r.Call() != ""
}

func (f *logFile) close() {
	if f != nil {
		_ = f.file.Close() // it was only read
	}
}

// logFiles returns the rotated files that are not compressed, oldest first, and the
// file that the daemon writes to.
func logFiles(path string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("list the audit log's files: %w", err)
	}
	base := filepath.Base(path)
	var rotated []string
	exists := false
	for _, entry := range entries {
		suffix, ok := strings.CutPrefix(entry.Name(), base)
		switch {
		case !ok || !entry.Type().IsRegular():
		case suffix == "":
			exists = true
		case isRotation(suffix):
			rotated = append(rotated, suffix)
		}
	}
	slices.SortFunc(rotated, compareRotations)
	var files []string
	for _, suffix := range rotated {
		files = append(files, path+suffix)
	}
	if exists {
		files = append(files, path)
	}
	return files, nil
}

// isRotation recognizes the names that the daemon (audit.log.3) and logrotate
// (audit.log.3, audit.log-20261124, audit.log-20261124-1732406400) choose.
func isRotation(suffix string) bool {
	return len(suffix) > 1 && (suffix[0] == '.' || suffix[0] == '-') && strings.Trim(suffix[1:], "0123456789-") == ""
}

// compareRotations orders files with dates before those with numbers, of which the
// greater is the older.
func compareRotations(a, b string) int {
	if a[0] != b[0] {
		return cmp.Compare(a[0], b[0]) // '-' is before '.'
	}
	if a[0] == '-' {
		return cmp.Compare(a, b)
	}
	first, _ := strconv.Atoi(a[1:])
	second, _ := strconv.Atoi(b[1:])
	return cmp.Compare(second, first)
}

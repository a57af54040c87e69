package logfile

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"syscall"

	"github.com/kmodquery/kmodquery/internal/cmdout"
)

// A File is an open log file and how far it was read. Its methods must not be called
// concurrently.
type File struct {
	*os.File
	// Offset is that of the first line that was not read.
	Offset  int64
	maxLine int
	half    int64  // bytes after Offset that are known to have no line feed
	last    []byte // the line before it, by which the file and its copies are recognized
	lastAt  int64  // the offset of last
}

// Open opens a regular file, whose lines ReadLines cuts if they have more than maxLine bytes.
func Open(name string, maxLine int) (*File, error) {
	file, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe must not block
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
	return &File{File: file, maxLine: maxLine}, nil
}

// Close closes the file, unless it is nil.
func (f *File) Close() error {
	if f == nil {
		return nil
	}
	return f.File.Close()
}

// Is reports whether this is the file of info.
func (f *File) Is(info fs.FileInfo) bool {
	own, err := f.Stat()
	return err == nil && os.SameFile(own, info)
}

// Replace continues in a copy of the file, and closes the file. It takes over the copy.
func (f *File) Replace(by *File) {
	f.File.Close()
	f.File = by.File
}

// ReadLines calls take for each line that it has not read yet, as [Lines] does, with the
// offset at which the line begins. Of a long line without an end it reads only the beginning
// again.
func (f *File) ReadLines(ctx context.Context, isComplete bool, take func(line []byte, at int64)) error {
	from := func(offset int64) io.Reader { return io.NewSectionReader(f, offset, math.MaxInt64-offset) }
	rest, skipped := from(f.Offset), int64(0)
	beginning := int64(f.maxLine + 1)
	if info, err := f.Stat(); err == nil && f.half > beginning && info.Size() >= f.Offset+f.half {
		rest, skipped = io.MultiReader(io.LimitReader(rest, beginning), from(f.Offset+f.half)), f.half-beginning
	}
	half, err := readLines(ctx, rest, f.maxLine, isComplete, func(line []byte, size int) {
		f.last, f.lastAt = append(f.last[:0], line...), f.Offset
		f.Offset += int64(size) + skipped
		skipped = 0
		take(line, f.lastAt)
	})
	f.half = half + skipped
	if err != nil {
		return fmt.Errorf("read %s: %w", f.Name(), err)
	}
	return nil
}

// IsIn reports whether another file has the last line that was read, at the same place. It is
// true for the file itself unless that was truncated, for its copies, and for every file if no
// line was read.
func (f *File) IsIn(other *File) bool {
	info, err := other.Stat()
	text := make([]byte, len(f.last))
	n, _ := other.ReadAt(text, f.lastAt)
	return err == nil && info.Size() >= f.Offset && bytes.Equal(text[:n], f.last)
}

// Lines calls take for each line without its line feed, and with its size. It cuts a line of
// more than maxLine bytes to maxLine+1. The line is valid until take returns. Lines reads an
// end without a line feed only if the file is complete. It is no error if ctx ends.
func Lines(ctx context.Context, from io.Reader, maxLine int, isComplete bool, take func(line []byte, size int)) error {
	_, err := readLines(ctx, from, maxLine, isComplete, take)
	return err
}

// readLines does what [Lines] does, and returns how many bytes without a line feed it read
// after the last line.
func readLines(ctx context.Context, from io.Reader, maxLine int, isComplete bool, take func(line []byte, size int)) (half int64, err error) {
	lines := bufio.NewReaderSize(from, maxLine+1)
	for ctx.Err() == nil {
		line, size, err := cmdout.ReadLine(ctx, lines)
		switch {
		case err == nil, errors.Is(err, io.EOF) && isComplete && size > 0:
			take(line, size)
		case errors.Is(err, io.EOF), ctx.Err() != nil:
			return int64(size), nil
		default:
			return 0, err
		}
	}
	return 0, nil
}

package klog

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// maxLogLine bounds a line of a log file, in bytes. The rest of a longer one
	// is skipped.
	maxLogLine = 8 << 10
	// tailSize is how much of what was read last tells one file from another.
	tailSize = 256
	// renameGrace is how long a file that was renamed is read on when nothing
	// appears in its place: its writer may not have been told yet.
	renameGrace = 10 * time.Second
	// maxInflated bounds what is read of a compressed file.
	maxInflated = 1 << 30
)

// A follower reads the lines of a log file as they come, across its rotation:
// by renaming, by copying and truncating, and of both the compressed (.gz) ones.
// A place in the log is known by what stands before it, so that it is found
// again whatever the file is called by then. Its methods must not be called
// concurrently.
type follower struct {
	path string
	lost func() // called when what followed the last place is gone

	segment *segment  // that is being read; nil before the first and between two
	chain   []string  // older files to read before path
	renamed time.Time // when path was first seen to be another file
	partial []byte    // of a line without its end
	isLong  bool      // that line is longer than maxLogLine
}

// A segment is one file of the log.
type segment struct {
	file   *os.File
	reader io.Reader // of file, or of what it has compressed
	name   string
	offset int64  // of the next byte to read
	tail   []byte // what stands before
}

// A filePlace is a place in a log: behind so many bytes, the last of which hash
// to this.
type filePlace struct {
	offset int64
	hash   string
}

// String is what parseFilePlace reads.
func (p filePlace) String() string { return strconv.FormatInt(p.offset, 10) + ":" + p.hash }

func parseFilePlace(text string) (filePlace, bool) {
	digits, hash, _ := strings.Cut(text, ":")
	offset, err := strconv.ParseInt(digits, 10, 64)
	ok := err == nil && offset > 0 && len(hash) == 2*hashSize && strings.Trim(hash, "0123456789abcdef") == ""
	return filePlace{offset, hash}, ok
}

// hashSize is in bytes.
const hashSize = 16

func hashTail(tail []byte) string {
	sum := sha256.Sum256(tail)
	return hex.EncodeToString(sum[:hashSize])
}

// newFollower returns a follower of path that begins behind a place. When the
// place is the zero one it begins with all that was written since. lost is
// called when the place is nowhere any more.
func newFollower(path string, from filePlace, since time.Time, lost func()) *follower {
	f := &follower{path: path, lost: lost}
	switch {
	case from.offset > 0 && !f.resume(from):
		lost()
	case from.offset == 0:
		for _, name := range f.rotated() {
			if info, err := os.Stat(name); err == nil && info.ModTime().After(since) {
				f.chain = append(f.chain, name)
			}
		}
	}
	return f
}

// read passes on each line that has been completed since, without its line feed.
// place is where the line ends, for as long as take has not returned. A file that
// is not there is no error.
func (f *follower) read(take func(line []byte, place func() filePlace)) error {
	for {
		if f.segment == nil && !f.open() {
			return nil
		}
		// Before reading: a file that was truncated and is longer again has
		// something else where reading would go on.
		if isOther, err := f.isTruncated(); isOther || err != nil {
			if err != nil {
				return err
			}
			f.relocate()
			continue
		}
		if err := f.readSegment(take); err != nil {
			return err
		}
		more, err := f.advance()
		if !more || err != nil {
			return err
		}
	}
}

// isThere reports whether there is a file in the log's place, or was a moment
// ago.
func (f *follower) isThere() bool {
	return f.segment != nil && (f.renamed.IsZero() || time.Since(f.renamed) < renameGrace)
}

func (f *follower) close() {
	if f.segment != nil {
		f.segment.file.Close()
		f.segment = nil
	}
}

// open begins with the next of the files.
func (f *follower) open() bool {
	for {
		name := f.path
		if len(f.chain) > 0 {
			name, f.chain = f.chain[0], f.chain[1:]
		}
		s, err := openSegment(name)
		if err == nil {
			f.segment, f.renamed = s, time.Time{}
			return true
		}
		if name == f.path {
			return false // it comes, or it becomes readable
		}
		f.lost()
	}
}

func openSegment(name string) (*segment, error) {
	// A pipe in the file's place must not block.
	file, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open a log: %w", err)
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file", name)
	}
	s := &segment{file: file, reader: file, name: name}
	if err == nil && strings.HasSuffix(name, ".gz") {
		var z *gzip.Reader
		z, err = gzip.NewReader(file)
		s.reader = io.LimitReader(z, maxInflated)
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("open a log: %w", err)
	}
	return s, nil
}

// skip goes to a place, and reports whether the segment has it.
func (s *segment) skip(to filePlace) bool {
	from := max(to.offset-tailSize, 0)
	if _, isPlain := s.reader.(*os.File); isPlain {
		if info, err := s.file.Stat(); err != nil || info.Size() < to.offset {
			return false
		}
		if _, err := s.file.Seek(from, io.SeekStart); err != nil {
			return false
		}
	} else if _, err := io.CopyN(io.Discard, s.reader, from); err != nil {
		return false
	}
	s.tail = make([]byte, to.offset-from)
	if _, err := io.ReadFull(s.reader, s.tail); err != nil {
		return false
	}
	s.offset = to.offset
	return hashTail(s.tail) == to.hash
}

func (s *segment) took(b []byte) {
	s.offset += int64(len(b))
	s.tail = append(s.tail, b...)
	s.tail = s.tail[max(len(s.tail)-tailSize, 0):]
}

func (s *segment) place() filePlace { return filePlace{s.offset, hashTail(s.tail)} }

// readSegment reads to the segment's present end.
func (f *follower) readSegment(take func(line []byte, place func() filePlace)) error {
	buffer := make([]byte, 64<<10)
	for {
		n, err := f.segment.reader.Read(buffer)
		for b := buffer[:n]; len(b) > 0; {
			end := bytes.IndexByte(b, '\n') + 1
			if end == 0 {
				f.segment.took(b)
				f.keep(b)
				break
			}
			f.segment.took(b[:end])
			f.keep(b[:end-1])
			f.finish(take)
			b = b[end:]
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && f.segment.name != f.path:
			f.lost() // a damaged archive
			return nil
		case err != nil:
			return fmt.Errorf("read %s: %w", f.segment.name, err)
		}
	}
}

func (f *follower) keep(b []byte) {
	if f.isLong = f.isLong || len(f.partial)+len(b) > maxLogLine; f.isLong {
		f.partial = f.partial[:0]
		return
	}
	f.partial = append(f.partial, b...)
}

func (f *follower) finish(take func(line []byte, place func() filePlace)) {
	if !f.isLong {
		take(f.partial, f.segment.place)
	}
	f.partial, f.isLong = f.partial[:0], false
}

// advance goes on from the end of a segment, and reports whether there is more to
// read.
func (f *follower) advance() (more bool, err error) {
	if _, isPlain := f.segment.reader.(*os.File); !isPlain || len(f.chain) > 0 {
		f.next()
		return true, nil
	}
	now, err := os.Stat(f.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("look at a log: %w", err)
	}
	info, statErr := f.segment.file.Stat()
	if statErr != nil {
		return false, fmt.Errorf("look at a log: %w", statErr)
	}
	if err == nil && os.SameFile(info, now) {
		f.renamed = time.Time{}
		return f.isTruncated()
	}
	if f.renamed.IsZero() {
		f.renamed = time.Now()
	}
	// Its writer goes on with the old file until it is told. Something in the new
	// one says that it was.
	if err != nil || now.Size() == 0 && time.Since(f.renamed) < renameGrace {
		return false, nil
	}
	return f.leave()
}

// leave reads on in the file that is now in the log's place, once the old one
// was read to its end: what was written to the new one was written after.
func (f *follower) leave() (bool, error) {
	info, err := f.segment.file.Stat()
	if err != nil {
		return false, fmt.Errorf("look at a log: %w", err)
	}
	if info.Size() > f.segment.offset {
		return true, nil
	}
	older := f.rotated()
	for i, name := range older {
		if other, err := os.Stat(name); err == nil && os.SameFile(info, other) {
			f.chain = slices.Clone(older[i+1:]) // it was rotated more than once
		}
	}
	f.next()
	return true, nil
}

// next ends a segment. What it has of a line is never completed.
func (f *follower) next() {
	f.close()
	f.partial, f.isLong = f.partial[:0], false
}

// isTruncated reports whether the file lacks what was read, or has something
// else in its place.
func (f *follower) isTruncated() (bool, error) {
	s := f.segment
	if _, isPlain := s.reader.(*os.File); !isPlain {
		return false, nil
	}
	tail := make([]byte, len(s.tail))
	_, err := s.file.ReadAt(tail, s.offset-int64(len(tail)))
	if err != nil && !errors.Is(err, io.EOF) {
		return false, fmt.Errorf("read %s: %w", s.name, err)
	}
	return err != nil || !bytes.Equal(tail, s.tail), nil
}

// relocate goes on in the copy of a file that was truncated.
func (f *follower) relocate() {
	place := f.segment.place()
	f.close()
	if !f.resume(place) {
		f.lost()
		f.next()
	}
}

// resume finds the file that has a place, and what was written since.
func (f *follower) resume(from filePlace) bool {
	older := f.rotated()
	if s := find(f.path, from); s != nil {
		f.segment = s
		return true
	}
	for i, name := range slices.Backward(older) {
		if s := find(name, from); s != nil {
			f.segment, f.chain = s, slices.Clone(older[i+1:])
			return true
		}
	}
	return false
}

// find opens a file at a place, nil where it does not have it.
func find(name string, at filePlace) *segment {
	s, err := openSegment(name)
	if err != nil {
		return nil
	}
	if !s.skip(at) {
		s.file.Close()
		return nil
	}
	return s
}

// rotatedSuffix is what logrotate and its like add to a log's name: a number or a
// date.
var rotatedSuffix = regexp.MustCompile(`^[.-](?:[0-9][0-9._-]*|old)(?:\.gz)?$`)

// rotated are the older files of the log, oldest first.
func (f *follower) rotated() []string {
	type old struct {
		name string
		at   time.Time
	}
	var all []old
	entries, _ := os.ReadDir(filepath.Dir(f.path)) // a folder that cannot be read has none
	base := filepath.Base(f.path)
	for _, entry := range entries {
		suffix, ok := strings.CutPrefix(entry.Name(), base)
		if !ok || !rotatedSuffix.MatchString(suffix) {
			continue
		}
		if info, err := entry.Info(); err == nil && info.Mode().IsRegular() {
			all = append(all, old{filepath.Join(filepath.Dir(f.path), entry.Name()), info.ModTime()})
		}
	}
	slices.SortFunc(all, func(a, b old) int { return a.at.Compare(b.at) })
	names := make([]string, len(all))
	for i, o := range all {
		names[i] = o.name
	}
	return names
}

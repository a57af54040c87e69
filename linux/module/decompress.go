package module

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"runtime"
	"sync"
)

var (
	errNotCompressed = errors.New("module is not compressed")
	errTooLarge      = errors.New("module is too large when decompressed")
)

// A decompressor returns a function that decompresses the first stream of in, from its
// start each time it is called, and ignores what follows the stream. The calls share their
// memory.
type decompressor func(in *io.SectionReader) (run func(out io.Writer) error, err error)

// decompressors are the formats that kernel/module/decompress.c supports.
var decompressors = []struct {
	magic string
	open  decompressor
}{
	{"\x1f\x8b\x08", gunzip},
	{"\xfd7zXZ\x00", unxz},
	{"\x28\xb5\x2f\xfd", unzstd},
}

// decompress reads the module inside in to its end. It returns errNotCompressed if in is
// not compressed, and errTooLarge if the module has more than limit bytes.
func decompress(ctx context.Context, in *io.SectionReader, limit int64) (*unpacked, error) {
	head := make([]byte, 6)
	n, _ := in.ReadAt(head, 0)
	for _, d := range decompressors {
		if bytes.HasPrefix(head[:n], []byte(d.magic)) {
			u, err := unpack(ctx, in, d.open, limit)
			if err != nil {
				return nil, fmt.Errorf("decompress module: %w", err)
			}
			return u, nil
		}
	}
	return nil, errNotCompressed
}

const (
	chunkSize = 64 << 10
	// maxKept bounds the bytes of a decompressed module that are kept in memory. Most
	// modules have fewer. The others are decompressed again for what is read of them.
	maxKept = 16 << 20
)

// A chunk is memory for a part of a module. Chunks are reused, because most modules need a
// few of them only for milliseconds.
type chunk [chunkSize]byte

var chunks = sync.Pool{New: func() any { return new(chunk) }}

// An unpacked is a compressed module of up to limit bytes that was decompressed once. It
// keeps the last maxKept bytes, and the first chunk, where the ELF header is.
type unpacked struct {
	ctx   context.Context
	run   func(io.Writer) error // decompresses the module again
	err   error                 // of the first run that failed; there is none after it
	limit int64

	size int64
	sum  hash.Hash
	head *chunk                      // the first chunk if the last ones do not include it
	last [maxKept / chunkSize]*chunk // chunk n is at n modulo the length
}

func unpack(ctx context.Context, in *io.SectionReader, open decompressor, limit int64) (*unpacked, error) {
	u := &unpacked{ctx: ctx, limit: limit, sum: sha256.New()}
	err := guard(func() (err error) {
		if u.run, err = open(in); err != nil {
			return err
		}
		return u.run(u)
	})
	if err != nil {
		u.free()
		return nil, err
	}
	return u, nil
}

// guard converts a panic to an error. No panic is known, but the libraries were not
// written for hostile input.
func guard(run func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("recover from panic: %v", r)
		}
	}()
	return run()
}

// Write takes the next bytes of the first decompression.
func (u *unpacked) Write(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	if int64(len(p)) > u.limit-u.size {
		return 0, errTooLarge
	}
	u.sum.Write(p)
	written := len(p)
	for len(p) > 0 {
		at := &u.last[u.size/chunkSize%int64(len(u.last))]
		used := u.size % chunkSize
		if used == 0 && u.size == maxKept {
			u.head, *at = *at, nil
		}
		if *at == nil {
			*at = chunks.Get().(*chunk)
		}
		n := copy((*at)[used:], p)
		u.size += int64(n)
		p = p[n:]
	}
	return written, nil
}

// ReadAt is called by a section reader of the module's size only. It decompresses the
// module again to read bytes that are not kept.
func (u *unpacked) ReadAt(p []byte, off int64) (int, error) {
	read := 0
	for read < len(p) && u.err == nil {
		at := off + int64(read)
		if kept := u.kept(at / chunkSize); kept != nil {
			read += copy(p[read:], kept[at%chunkSize:])
			continue
		}
		w := &window{ctx: u.ctx, skip: at, p: p[read:]}
		err := guard(func() error { return u.run(w) })
		if read = len(p) - len(w.p); read < len(p) {
			u.err = fmt.Errorf("decompress module again: %w", cmp.Or(err, io.ErrUnexpectedEOF))
		}
	}
	return read, u.err
}

// kept returns a chunk, or nil if it is not kept.
func (u *unpacked) kept(n int64) *chunk {
	switch {
	case n == 0 && u.head != nil:
		return u.head
	case n < (u.size-1)/chunkSize+1-int64(len(u.last)):
		return nil
	}
	return u.last[n%int64(len(u.last))]
}

// free gives the memory back. That of a large dictionary is collected at once, or that of the
// next module would come on top of it.
func (u *unpacked) free() {
	for _, c := range append(u.last[:], u.head) {
		if c != nil {
			chunks.Put(c)
		}
	}
	if u.run = nil; u.size > maxKept {
		runtime.GC()
	}
}

// A window takes some bytes of a stream and ends it after them.
type window struct {
	ctx  context.Context
	skip int64  // bytes before them
	p    []byte // memory for those that have not come
}

var errRead = errors.New("all bytes that were wanted are read")

func (w *window) Write(p []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	skipped := min(w.skip, int64(len(p)))
	w.skip -= skipped
	w.p = w.p[copy(w.p, p[skipped:]):]
	if len(w.p) == 0 {
		return 0, errRead
	}
	return len(p), nil
}

// A walker finds the end of a compressed stream without decompressing it. After an
// error it does not move, and next returns zeros.
type walker struct {
	r       *bufio.Reader
	at      int64
	err     error
	scratch [16]byte
}

func walk(in *io.SectionReader) *walker { return &walker{r: fromStart(in)} }

// fromStart returns a reader from the start of in.
func fromStart(in *io.SectionReader) *bufio.Reader {
	return bufio.NewReaderSize(io.NewSectionReader(in, 0, in.Size()), int(min(in.Size(), 64<<10)))
}

func (w *walker) skip(n int) {
	if w.err == nil {
		n, w.err = w.r.Discard(n)
		w.at += int64(n)
	}
}

// next returns the next n bytes, at most 16. They are valid until the next call.
func (w *walker) next(n int) []byte {
	p := w.scratch[:n]
	if w.err == nil {
		n, w.err = io.ReadFull(w.r, p)
		w.at += int64(n)
	}
	if w.err != nil {
		clear(p)
	}
	return p
}

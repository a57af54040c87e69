package module

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
)

var (
	errNotCompressed = errors.New("module is not compressed")
	errTooLarge      = errors.New("module is too large when decompressed")
)

// A decompressor decompresses the first stream of in, and ignores what follows it.
type decompressor func(out io.Writer, in *io.SectionReader) error

// decompressors are the formats that kernel/module/decompress.c supports.
var decompressors = []struct {
	magic string
	run   decompressor
}{
	{"\x1f\x8b\x08", gunzip},
	{"\xfd7zXZ\x00", unxz},
	{"\x28\xb5\x2f\xfd", unzstd},
}

// decompress returns the module inside in. It returns errNotCompressed if in is not
// compressed, and errTooLarge if the module has more than limit bytes.
func decompress(ctx context.Context, in *io.SectionReader, limit int64) (*buffer, error) {
	head := make([]byte, 6)
	n, _ := in.ReadAt(head, 0)
	for _, d := range decompressors {
		if bytes.HasPrefix(head[:n], []byte(d.magic)) {
			out := &buffer{ctx: ctx, limit: limit}
			if err := guard(d.run, out, in); err != nil {
				return nil, fmt.Errorf("decompress module: %w", err)
			}
			return out, nil
		}
	}
	return nil, errNotCompressed
}

// guard converts a panic to an error. No panic is known, but the libraries were not
// written for hostile input.
func guard(run decompressor, out io.Writer, in *io.SectionReader) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("recover from panic: %v", r)
		}
	}()
	return run(out, in)
}

const chunkSize = 256 << 10

// A buffer holds up to limit bytes. It grows without copying, so it never needs
// twice its size.
type buffer struct {
	ctx    context.Context
	limit  int64
	size   int64
	chunks [][]byte // all of chunkSize
}

func (b *buffer) Write(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	if int64(len(p)) > b.limit-b.size {
		return 0, errTooLarge
	}
	written := len(p)
	for len(p) > 0 {
		used := int(b.size % chunkSize)
		if used == 0 {
			b.chunks = append(b.chunks, make([]byte, chunkSize))
		}
		n := copy(b.chunks[len(b.chunks)-1][used:], p)
		b.size += int64(n)
		p = p[n:]
	}
	return written, nil
}

func (b *buffer) ReadAt(p []byte, off int64) (int, error) {
	read := 0
	for read < len(p) && off >= 0 && off < b.size {
		chunk := b.chunks[off/chunkSize]
		chunk = chunk[:min(chunkSize, b.size-off/chunkSize*chunkSize)]
		n := copy(p[read:], chunk[off%chunkSize:])
		read += n
		off += int64(n)
	}
	if read < len(p) {
		return read, io.EOF
	}
	return read, nil
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
	return bufio.NewReaderSize(io.NewSectionReader(in, 0, in.Size()), 64<<10)
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

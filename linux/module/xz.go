package module

import (
	"encoding/binary"
	"errors"
	"io"

	"github.com/therootcompany/xz"
)

// unxz uses a port of XZ Embedded, which is what the kernel uses. It supports the same
// filters, and bounds the dictionary.
func unxz(in *io.SectionReader) (run func(io.Writer) error, err error) {
	// The library treats the bytes after the stream as padding, whose length must
	// be a multiple of four.
	end, err := xzEnd(in)
	if err != nil {
		return nil, err
	}
	r, err := xz.NewReader(nil, maxDictionary)
	if err != nil {
		return nil, err
	}
	buffer := make([]byte, 32<<10)
	return func(out io.Writer) error {
		if err := r.Reset(io.NewSectionReader(in, 0, end)); err != nil {
			return err
		}
		r.Multistream(false)
		_, err = io.CopyBuffer(out, r, buffer)
		return err
	}, nil
}

// Parts of the .xz file format, version 1.2.1.
const (
	xzHeaderSize = 12
	xzFooterSize = 12
)

// xzCheckSizes are the sizes of a block's check by its type.
var xzCheckSizes = [16]int{0, 4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64}

// xzEnd returns the end of the first stream. It does not verify the stream.
func xzEnd(in *io.SectionReader) (int64, error) {
	w := walk(in)
	checkSize := xzCheckSizes[w.next(xzHeaderSize)[7]&15]
	for w.err == nil {
		size := w.next(1)[0]
		if size == 0 {
			break // the index
		}
		w.skip(int(size)*4 + 3)
		skipLZMA2(w)
		w.align()
		w.skip(checkSize)
	}
	// A record has two numbers of at least one byte each, so the input bounds the
	// loop even if the count is wrong.
	for records := w.number(); records > 0 && w.err == nil; records-- {
		w.number()
		w.number()
	}
	w.align()
	w.skip(4 + xzFooterSize)
	return w.at, w.err
}

// skipLZMA2 skips the chunks of a block.
func skipLZMA2(w *walker) {
	for w.err == nil {
		control := w.next(1)[0]
		switch {
		case control == 0:
			return
		case control >= 0x80: // compressed
			size := int(binary.BigEndian.Uint16(w.next(4)[2:])) + 1
			if control >= 0xc0 {
				size++ // new properties
			}
			w.skip(size)
		case control <= 2:
			w.skip(int(binary.BigEndian.Uint16(w.next(2))) + 1)
		default:
			w.err = errors.New("xz: unknown LZMA2 chunk")
		}
	}
}

// align skips to a multiple of four.
func (w *walker) align() { w.skip(int(-w.at & 3)) }

// number reads a variable-length integer.
func (w *walker) number() uint64 {
	var value uint64
	for shift := 0; shift < 63; shift += 7 {
		b := w.next(1)[0]
		value |= uint64(b&0x7f) << shift
		if b < 0x80 {
			return value
		}
	}
	w.err = errors.New("xz: number is too long")
	return 0
}

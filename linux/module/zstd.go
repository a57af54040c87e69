package module

import (
	"bytes"
	"errors"
	"io"

	"github.com/klauspost/compress/zstd"
)

// unzstd follows module_zstd_decompress of kernel/module/decompress.c, which accepts a
// truncated frame that ends after a block or inside the checksum.
func unzstd(in *io.SectionReader) (run func(io.Writer) error, err error) {
	end, tail, err := zstdEnd(in)
	if err != nil {
		return nil, err
	}
	// With a concurrency of 1 it has no goroutine, so it need not be closed.
	r, err := zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(maxDictionary),
		zstd.WithDecoderMaxMemory(maxDictionary),
		zstd.IgnoreChecksum(len(tail) > 0))
	if err != nil {
		return nil, err
	}
	frame := fromStart(in)
	return func(out io.Writer) error {
		frame.Reset(io.NewSectionReader(in, 0, end))
		if err := r.Reset(io.MultiReader(frame, bytes.NewReader(tail))); err != nil {
			return err
		}
		_, err := r.WriteTo(out)
		return err
	}, nil
}

const (
	zstdHeaderSize   = 18 // at most, RFC 8878, section 3.1.1.1
	zstdChecksumSize = 4
)

// zstdEnd returns the end of the first frame (RFC 8878, section 3.1.1), and the bytes
// that a truncated frame lacks.
func zstdEnd(in *io.SectionReader) (end int64, tail []byte, err error) {
	head := make([]byte, zstdHeaderSize)
	n, _ := in.ReadAt(head, 0)
	var header zstd.Header
	if err := header.Decode(head[:n]); err != nil {
		return 0, nil, err
	}
	w := walk(in)
	w.skip(header.HeaderSize)
	for last := false; !last; {
		end = w.at
		b := w.next(3)
		if w.err != nil {
			tail = []byte{1, 0, 0} // an empty last block
			break
		}
		block := uint(b[0]) | uint(b[1])<<8 | uint(b[2])<<16
		last = block&1 != 0
		size := int(block >> 3)
		switch block >> 1 & 3 {
		case 1: // one byte, repeated
			size = 1
		case 3:
			return 0, nil, errors.New("zstd: reserved block type")
		}
		if w.skip(size); w.err != nil {
			return 0, nil, w.err
		}
		end = w.at
	}
	if header.HasCheckSum {
		if w.skip(zstdChecksumSize); w.err == nil {
			end = w.at
		} else {
			tail = append(tail, make([]byte, zstdChecksumSize)...)
		}
	}
	return end, tail, nil
}

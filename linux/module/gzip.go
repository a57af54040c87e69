package module

import (
	"bufio"
	"compress/flate"
	"errors"
	"io"
)

const gzipHasName = 1 << 3 // RFC 1952, FNAME

// gunzip follows module_gzip_decompress of kernel/module/decompress.c rather than
// RFC 1952: it supports no optional field but the name, and verifies neither the
// checksum nor the length. A stricter or a more complete reader would read another
// module than the kernel, or none.
func gunzip(in *io.SectionReader) (run func(io.Writer) error, err error) {
	r, buffer := fromStart(in), make([]byte, 32<<10)
	stream := flate.NewReader(nil)
	return func(out io.Writer) error {
		r.Reset(io.NewSectionReader(in, 0, in.Size()))
		if err := skipGzipHeader(r); err != nil {
			return err
		}
		if err := stream.(flate.Resetter).Reset(r, nil); err != nil {
			return err
		}
		_, err := io.CopyBuffer(out, stream, buffer)
		return err
	}, nil
}

func skipGzipHeader(r *bufio.Reader) error {
	header := make([]byte, 10)
	if _, err := io.ReadFull(r, header); err != nil {
		return err
	}
	for isName := header[3]&gzipHasName != 0; isName; {
		b, err := r.ReadByte()
		if err != nil {
			return errors.New("gzip: name has no end")
		}
		isName = b != 0
	}
	return nil
}

package module

import (
	"compress/flate"
	"errors"
	"io"
)

const gzipHasName = 1 << 3 // RFC 1952, FNAME

// gunzip follows module_gzip_decompress of kernel/module/decompress.c rather than
// RFC 1952: it supports no optional field but the name, and verifies neither the
// checksum nor the length. A stricter or a more complete reader would read another
// module than the kernel, or none.
func gunzip(out io.Writer, in *io.SectionReader) error {
	r := fromStart(in)
	header := make([]byte, 10)
	if _, err := io.ReadFull(r, header); err != nil {
		return err
	}
	if header[3]&gzipHasName != 0 {
		for {
			b, err := r.ReadByte()
			if err != nil {
				return errors.New("gzip: name has no end")
			}
			if b == 0 {
				break
			}
		}
	}
	_, err := io.Copy(out, flate.NewReader(r))
	return err
}

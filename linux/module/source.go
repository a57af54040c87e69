package module

import (
	"context"
	"io"
)

// A source is the caller's reader. It keeps the first error of reading, to distinguish
// it from an error in the module.
type source struct {
	ctx  context.Context
	r    io.ReaderAt
	size int64
	err  error // first error; nothing is read after it
}

// check sets err if the context ended.
func (s *source) check() {
	if s.err == nil {
		s.err = s.ctx.Err()
	}
}

func (s *source) ReadAt(p []byte, off int64) (int, error) {
	if s.check(); s.err != nil {
		return 0, s.err
	}
	if off < 0 || off >= s.size {
		return 0, io.EOF
	}
	var end error
	if rest := s.size - off; int64(len(p)) > rest {
		p, end = p[:rest], io.EOF
	}
	if n, err := s.r.ReadAt(p, off); n < len(p) {
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF // it was truncated
		}
		s.err = err
		return n, err
	}
	return len(p), end
}

package module

import (
	"context"
	"io"
)

// A source is the caller's reader. It keeps the first error of reading, to distinguish
// it from an error in the module.
type source struct {
	ctx context.Context
	r   io.ReaderAt
	err error // first error; nothing is read after it
}

// check sets err if the context ended.
func (s *source) check() {
	if s.err == nil {
		s.err = s.ctx.Err()
	}
}

// ReadAt is called by a section reader of the expected size only.
func (s *source) ReadAt(p []byte, off int64) (int, error) {
	if s.check(); s.err != nil {
		return 0, s.err
	}
	n, err := s.r.ReadAt(p, off)
	switch {
	case n == len(p):
		return n, nil
	case err == nil, err == io.EOF:
		err = io.ErrUnexpectedEOF // it was truncated
	}
	s.err = err
	return n, err
}

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
	if s.err = readFull(s.r, p, off); s.err != nil {
		return 0, s.err
	}
	return len(p), nil
}

package cmdout

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
)

// Lines passes lines on, each without its line feed, until the reader or ctx ends.
// skipped is called for each one that has more than limit bytes, which is not
// passed on. It reports whether something stands behind the last line feed, which
// is not passed on either.
func Lines(ctx context.Context, from io.Reader, limit int, to chan<- []byte, skipped func()) (isHalf bool) {
	lines := bufio.NewReaderSize(from, limit+1)
	for {
		text, err := lines.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			for errors.Is(err, bufio.ErrBufferFull) {
				_, err = lines.ReadSlice('\n')
			}
			skipped()
			continue
		case err != nil:
			return len(text) > 0
		}
		select {
		case to <- bytes.Clone(text[:len(text)-1]):
		case <-ctx.Done():
			return false
		}
	}
}

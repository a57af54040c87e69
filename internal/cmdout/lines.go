package cmdout

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
)

// Lines sends each line without its line feed to the channel, until the reader or ctx
// ends. It skips lines of more than limit bytes and calls skipped for each. It returns
// whether the output ends without a line feed; the incomplete line is not sent.
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

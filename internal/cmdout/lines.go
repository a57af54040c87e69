package cmdout

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
)

// ReadLine returns the next line without its line feed, and the size of the line in bytes,
// with it. A line that does not fit into the reader's buffer is cut to the buffer's size.
// The line is valid until the next read. err is nil only if the line ends in a line feed. It
// is that of ctx if ctx ends while the rest of such a line is read.
func ReadLine(ctx context.Context, r *bufio.Reader) (line []byte, size int, err error) {
	line, err = r.ReadSlice('\n')
	size = len(line)
	if errors.Is(err, bufio.ErrBufferFull) {
		line = bytes.Clone(line)
		for errors.Is(err, bufio.ErrBufferFull) {
			var rest []byte
			rest, err = r.ReadSlice('\n')
			size += len(rest)
			if ctx.Err() != nil && errors.Is(err, bufio.ErrBufferFull) {
				err = ctx.Err()
			}
		}
		return line, size, err
	}
	return bytes.TrimSuffix(line, []byte{'\n'}), size, err
}

// Lines sends each line without its line feed to the channel, until the reader or ctx
// ends. It skips lines of more than limit bytes and calls skipped for each. It returns
// whether the output ends without a line feed; the incomplete line is not sent.
func Lines(ctx context.Context, from io.Reader, limit int, to chan<- []byte, skipped func()) (isHalf bool) {
	lines := bufio.NewReaderSize(from, limit+1)
	for {
		line, _, err := ReadLine(ctx, lines)
		isLong := len(line) > limit
		if isLong {
			skipped()
		}
		if err != nil {
			return len(line) > 0 && !isLong
		}
		if isLong {
			continue
		}
		select {
		case to <- bytes.Clone(line):
		case <-ctx.Done():
			return false
		}
	}
}

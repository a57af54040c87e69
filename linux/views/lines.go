package views

import (
	"bufio"
	"context"
	"errors"
	"io"
)

const (
	// maxLine bounds a line, in bytes. The longest line that a kernel writes lists
	// the users of a module, each with a name of up to 55 bytes.
	maxLine = 64 << 10
	// maxNames bounds the names that one view may show. A kernel has a few hundred
	// modules.
	maxNames = 1 << 14
)

var errTooMany = errors.New("the view shows too many modules")

// eachLine calls visit with each line of r, without its end. The line is valid until visit
// returns. eachLine omits the part of a line beyond maxLine.
func eachLine(ctx context.Context, r io.Reader, visit func(line []byte) error) error {
	lines := bufio.NewReaderSize(r, maxLine)
	for count := 0; ; count++ {
		if count%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		line, err := lines.ReadSlice('\n')
		if n := len(line); n > 0 && line[n-1] == '\n' {
			line = line[:n-1]
		} else if n == 0 && err == io.EOF {
			return nil
		}
		if visitErr := visit(line); visitErr != nil {
			return visitErr
		}
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = lines.ReadSlice('\n')
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

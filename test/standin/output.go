package standin

import (
	"bufio"
	"os"

	"github.com/mattn/go-isatty"
)

// An output is standard output with the buffering of the C library: by lines to a
// terminal, by blocks to anything else.
type output struct {
	*bufio.Writer
	isTerminal bool
}

// block is the buffer size for a pipe or a file on macOS.
const block = 8 << 10

func newOutput() *output {
	return &output{bufio.NewWriterSize(os.Stdout, block), isatty.IsTerminal(os.Stdout.Fd())}
}

func (o *output) write(text string) error {
	if _, err := o.WriteString(text); err != nil {
		return err
	}
	if o.isTerminal {
		return o.Flush()
	}
	return nil
}

// flush writes the buffer, as exit(3) does. A killed program loses it.
func (o *output) flush() { _ = o.Flush() }

package standin

import (
	"bufio"
	"os"

	"github.com/mattn/go-isatty"
)

// An output is stdout as the C library treats it: by the line on a terminal, in
// blocks on everything else.
type output struct {
	*bufio.Writer
	isTerminal bool
}

// block is BUFSIZ of a pipe or a file on macOS.
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

// flush is what exit(3) does, and what dying does not.
func (o *output) flush() { _ = o.Flush() }

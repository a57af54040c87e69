package shell

import (
	"bufio"
	"fmt"
	"strings"

	"github.com/peterh/liner"
)

// lineReader provides the lines of a session, without their ends. Prompt returns io.EOF
// at the end of the input and liner.ErrPromptAborted if the user abandoned the line.
type lineReader interface {
	Prompt(prompt string) (string, error)
	AppendHistory(line string)
}

// stream is the lineReader for input that is not a terminal.
type stream struct {
	reader *bufio.Reader
	line   int // number of the line that was read last
}

func (s *stream) Prompt(string) (string, error) {
	line, err := s.reader.ReadString('\n')
	if line != "" {
		err = nil // the next read returns it again
		s.line++
	}
	return strings.TrimRight(line, "\r\n"), err
}

func (s *stream) AppendHistory(string) {}

// editor is the lineReader for a terminal, with a history file.
type editor struct {
	*liner.State
	history history
	fail    func(error)
	failed  bool // the history cannot be used, which was reported
}

func newEditor(path string, fail func(error), complete func(line string) (head string, words []string)) *editor {
	e := &editor{State: liner.NewLiner(), history: history{path: path}, fail: fail}
	e.SetCtrlCAborts(true)
	e.SetMultiLineMode(true)
	e.SetTabCompletionStyle(liner.TabPrints)
	e.SetWordCompleter(func(line string, cursor int) (head string, words []string, tail string) {
		characters := []rune(line)
		head, words = complete(string(characters[:cursor]))
		return head, words, string(characters[cursor:])
	})
	lines, err := e.history.load()
	if err != nil {
		e.abandon(fmt.Errorf("read history: %w", err))
	}
	for _, line := range lines {
		e.State.AppendHistory(line)
	}
	return e
}

// AppendHistory adds a line to the history and saves it, unless the history cannot be used.
func (e *editor) AppendHistory(line string) {
	e.State.AppendHistory(line)
	if e.failed {
		return
	}
	if err := e.history.add(line); err != nil {
		e.abandon(fmt.Errorf("save history: %w", err))
	}
}

// abandon reports an error of the history, which is not used any more.
func (e *editor) abandon(err error) {
	e.failed = true
	e.fail(fmt.Errorf("%w; this shell saves no more lines", err))
}

// close restores the terminal.
func (e *editor) close() {
	if err := e.Close(); err != nil {
		e.fail(fmt.Errorf("restore terminal: %w", err))
	}
}

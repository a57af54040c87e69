package shell

import (
	"bufio"
	"errors"
	"fmt"
	"os"
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
}

func (s *stream) Prompt(string) (string, error) {
	line, err := s.reader.ReadString('\n')
	if line != "" {
		err = nil // the next read returns it again
	}
	return strings.TrimRight(line, "\r\n"), err
}

func (s *stream) AppendHistory(string) {}

// editor is the lineReader for a terminal, with a history file.
type editor struct {
	*liner.State
	history string
}

func newEditor(history string, fail func(error)) *editor {
	e := &editor{State: liner.NewLiner(), history: history}
	e.SetCtrlCAborts(true)
	file, err := os.Open(history)
	if err == nil {
		defer file.Close()
		_, err = e.ReadHistory(file)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		fail(fmt.Errorf("read history: %w", err))
	}
	return e
}

// close restores the terminal and saves the history.
func (e *editor) close(fail func(error)) {
	if err := e.Close(); err != nil {
		fail(fmt.Errorf("restore terminal: %w", err))
	}
	file, err := os.OpenFile(e.history, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err == nil {
		_, err = e.WriteHistory(file)
		err = errors.Join(err, file.Close())
	}
	if err != nil {
		fail(fmt.Errorf("save history: %w", err))
	}
}

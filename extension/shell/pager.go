package shell

import (
	"bytes"
	"io"
	"os"
	"os/exec"

	"github.com/kballard/go-shellquote"
	"github.com/peterh/liner"
	"golang.org/x/sys/unix"
)

// pagerCommand returns the program and the arguments of $PAGER, or of less if it is not set. It
// returns nil if $PAGER is empty or cat, or if there is no such program.
func pagerCommand() []string {
	words := []string{"less", "-S"}
	if pager, ok := os.LookupEnv("PAGER"); ok {
		var err error
		if words, err = shellquote.Split(pager); err != nil || len(words) == 0 || words[0] == "cat" {
			return nil
		}
	}
	path, err := exec.LookPath(words[0])
	if err != nil {
		return nil
	}
	words[0] = path
	return words
}

// A pager shows what is longer than the screen in a program, and anything else on the terminal.
// Rows that follow the first chunk follow it there.
type pager struct {
	terminal *os.File
	command  []string
	program  *exec.Cmd
	input    io.WriteCloser
	mode     liner.ModeApplier // of the terminal, before the program
	isBegun  bool
}

// page returns where the rows of the next statement go, and a function that waits until they
// were looked at.
func (s *session) page() (io.Writer, func()) {
	terminal, ok := s.out.(*os.File)
	if !ok || !s.interactive || !s.hasPager || s.screen == 0 || s.out != s.standard {
		return s.out, func() {}
	}
	command := pagerCommand()
	if command == nil {
		return s.out, func() {}
	}
	p := &pager{terminal: terminal, command: command}
	return p, p.close
}

func (p *pager) Write(text []byte) (int, error) {
	if !p.isBegun {
		p.isBegun = true
		if size, err := unix.IoctlGetWinsize(int(p.terminal.Fd()), unix.TIOCGWINSZ); err == nil && bytes.Count(text, []byte{'\n'}) >= int(size.Row) {
			p.start()
		}
	}
	if p.program == nil {
		return p.terminal.Write(text)
	}
	if _, err := p.input.Write(text); err != nil {
		return len(text), nil // the user has left the pager, and wants to see no more
	}
	return len(text), nil
}

// start starts the program. If that fails, the rows go to the terminal.
func (p *pager) start() {
	program := exec.Command(p.command[0], p.command[1:]...)
	program.Stdout, program.Stderr = p.terminal, os.Stderr
	input, err := program.StdinPipe()
	if err != nil {
		return
	}
	if mode, err := liner.TerminalMode(); err == nil {
		p.mode = mode
	}
	if program.Start() == nil {
		p.program, p.input = program, input
	}
}

func (p *pager) close() {
	if p.program != nil {
		// What the program returns says nothing about the rows.
		_ = p.input.Close()
		_ = p.program.Wait()
		if p.mode != nil {
			_ = p.mode.ApplyMode() // also after a program that was killed
		}
	}
}

package shell

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/kballard/go-shellquote"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery/internal/human"
)

// errQuit ends the shell.
var errQuit = errors.New("quit")

// A command runs a line that begins with a dot.
type command struct {
	name, arguments, help string
	least, most           int  // words after the name
	prints                bool // text
	run                   func(ctx context.Context, s *session, words []string) error
}

const anyNumber = 1 << 10

// commands returns all commands, by name.
func commands() []command {
	return []command{
		{".all", "TABLE", "show all rows of a table", 1, 1, false, showAll},
		{".exit", "", "leave the shell", 0, 0, false, quit},
		{".headers", "on|off", "show the names of columns in tables and CSV, or not", 1, 1, false, setHeaders},
		{".help", "", "show this text", 0, 0, true, showHelp},
		{".mode", "[FORMAT]", "show or set the format: " + formatNames, 0, 1, true, setMode},
		{".nullvalue", "TEXT", "show TEXT for NULL; JSON has null always", 1, 1, false, setNull},
		{".once", "FILE", "write the rows of the next statement to a file", 1, 1, false, setOnce},
		{".output", "[FILE]", "write what follows to a file, or to the terminal again", 0, 1, false, setOutput},
		{".quit", "", "leave the shell", 0, 0, false, quit},
		{".read", "FILE", "run the statements and commands of a file", 1, 1, false, read},
		{".schema", "[TABLE]", "show the columns of one table or of all", 0, 1, true, showSchema},
		{".show", "", "show the settings", 0, 0, true, showSettings},
		{".tables", "", "list the tables", 0, 0, true, showTables},
		{".timer", "on|off", "show how long each statement takes, or not", 1, 1, false, setTimer},
		{".width", "[N...]", "set the widths of a table's columns; 0 fits the terminal", 0, anyNumber, false, setWidths},
	}
}

func showHelp(_ context.Context, s *session, _ []string) error {
	var b strings.Builder
	for _, c := range commands() {
		fmt.Fprintf(&b, "%-16s %s\n", strings.TrimSpace(c.name+" "+c.arguments), c.help)
	}
	b.WriteString("Anything else is SQL and ends with a semicolon.\n" +
		"ago('1h') is the time an hour ago, and utc(time) shows a time as text.\n")
	_, err := io.WriteString(s.out, b.String())
	return err
}

// command runs a command. In JSON, what it prints becomes a string of the document.
func (s *session) command(ctx context.Context, line string) error {
	words, err := shellquote.Split(line)
	if err != nil {
		return s.failedCommand(fmt.Errorf("read command: %w", err))
	}
	c, err := findCommand(words[0])
	if err != nil {
		return s.failedCommand(err)
	}
	switch n := len(words) - 1; {
	case n > c.most:
		return s.failedCommand(fmt.Errorf("too many words after %s; write: %s", c.name, strings.TrimSpace(c.name+" "+c.arguments)))
	case n < c.least:
		return s.failedCommand(fmt.Errorf("%s lacks a word; write: %[1]s %s", c.name, c.arguments))
	}
	if !c.prints || s.format != JSON || s.interactive {
		return s.failedCommand(c.run(ctx, s, words[1:]))
	}
	out, text := s.out, new(bytes.Buffer)
	s.out = text
	err = c.run(ctx, s, words[1:])
	s.out = out
	s.document.addText(text.String())
	return s.failedCommand(err)
}

// failedCommand adds the failure to the document in JSON, and returns it.
func (s *session) failedCommand(err error) error {
	if s.format == JSON && !s.interactive && err != nil && !errors.Is(err, errQuit) {
		s.document.addError(err)
	}
	return err
}

func findCommand(name string) (command, error) {
	var names []string
	for _, c := range commands() {
		if c.name == name {
			return c, nil
		}
		names = append(names, c.name)
	}
	if nearest := human.Nearest(name, names); nearest != "" {
		return command{}, fmt.Errorf("unknown command %s; did you mean %s?", name, nearest)
	}
	return command{}, fmt.Errorf("unknown command %s; .help lists the commands", name)
}

func quit(context.Context, *session, []string) error { return errQuit }

func setMode(_ context.Context, s *session, words []string) error {
	if len(words) == 0 {
		_, err := fmt.Fprintln(s.out, s.format)
		return err
	}
	f, err := ParseFormat(words[0])
	if err != nil {
		return err
	}
	if f != JSON && len(s.document.results) > 0 {
		if err := s.flush(); err != nil {
			return err
		}
	}
	s.format = f
	return nil
}

// onOff reads the word of a setting that is on or off.
func onOff(word string) (bool, error) {
	switch strings.ToLower(word) {
	case "on":
		return true, nil
	case "off":
		return false, nil
	}
	return false, fmt.Errorf("unknown setting %q; write on or off", word)
}

func setHeaders(_ context.Context, s *session, words []string) error {
	on, err := onOff(words[0])
	if err == nil {
		s.noHeaders = !on
	}
	return err
}

func setTimer(_ context.Context, s *session, words []string) error {
	on, err := onOff(words[0])
	if err == nil {
		s.hasTimer = on
	}
	return err
}

func setNull(_ context.Context, s *session, words []string) error {
	s.null = &words[0]
	return nil
}

// maxColumnWidth bounds the width that .width sets for a column.
const maxColumnWidth = 4096

func setWidths(_ context.Context, s *session, words []string) error {
	widths := make([]int, len(words))
	for i, word := range words {
		n, err := strconv.Atoi(word)
		if err != nil || n < 0 || n > maxColumnWidth {
			return fmt.Errorf("the width %q is not a number from 0 to %d", word, maxColumnWidth)
		}
		widths[i] = n
	}
	s.widths = widths
	return nil
}

func showSettings(_ context.Context, s *session, _ []string) error {
	name := map[bool]string{true: "on", false: "off"}
	output := "stdout"
	if s.file != nil {
		output = s.file.Name()
	}
	widths := "fit the terminal"
	if len(s.widths) > 0 {
		widths = strings.Trim(fmt.Sprint(s.widths), "[]")
	}
	_, err := fmt.Fprintf(s.out, "headers   %s\nmode      %s\nnullvalue %q\noutput    %s\ntimer     %s\nwidth     %s\n",
		name[!s.noHeaders], s.format, s.nullText(), output, name[s.hasTimer], widths)
	return err
}

// flush writes the document to where the rows go.
func (s *session) flush() error {
	out := s.standard
	if s.file != nil {
		out = s.file
	} else {
		s.document.isWritten = true
	}
	if err := s.document.writeTo(out); err != nil {
		return fmt.Errorf("write rows: %w", err)
	}
	return nil
}

func setOnce(_ context.Context, s *session, words []string) error {
	err := s.openOutput(words[0])
	s.once = err == nil
	return err
}

func setOutput(_ context.Context, s *session, words []string) error {
	if len(words) == 0 {
		return s.closeOutput()
	}
	return s.openOutput(words[0])
}

// openOutput writes what follows to a new file, which only its owner can read, or to one
// that exists. It follows no link: root's shell may run in a folder that others can write.
func (s *session) openOutput(path string) error {
	if err := s.closeOutput(); err != nil {
		return err
	}
	if len(s.document.results) > 0 {
		if err := s.flush(); err != nil {
			return err
		}
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("open output: %w", err)
	}
	s.file, s.out = file, file
	return nil
}

// closeOutput writes to the output of the shell again.
func (s *session) closeOutput() error {
	if s.file == nil {
		return nil
	}
	var err error
	if len(s.document.results) > 0 {
		err = s.flush()
	}
	err = errors.Join(err, s.file.Close())
	s.file, s.out, s.once = nil, s.standard, false
	return err
}

// maxReadDepth is how many files may read each other.
const maxReadDepth = 8

func read(ctx context.Context, s *session, words []string) error {
	if s.depth == maxReadDepth {
		return fmt.Errorf("%s is read by %d files that read each other; run it by itself", words[0], maxReadDepth)
	}
	file, err := os.Open(words[0])
	if err != nil {
		return fmt.Errorf("read statements: %w", err)
	}
	defer file.Close()
	lines := s.lines
	s.lines, s.depth = &stream{reader: bufio.NewReader(file)}, s.depth+1
	defer func() { s.lines, s.depth = lines, s.depth-1 }()
	return s.runLines(ctx)
}

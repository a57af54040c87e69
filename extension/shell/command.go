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
		{".help", "[COMMAND]", "show this text, or what a command does", 0, 1, true, showHelp},
		{".mode", "[FORMAT]", "show or set the format: " + formatNames, 0, 1, true, setMode},
		{".nullvalue", "TEXT", "show TEXT for NULL; JSON has null always", 1, 1, false, setNull},
		{".once", "FILE", "write the rows of the next statement to a file", 1, 1, false, setOnce},
		{".output", "[FILE]", "write what follows to a file, or to the terminal again", 0, 1, false, setOutput},
		{".pager", "on|off", "show what is longer than the screen in $PAGER or less, or not", 1, 1, false, setPager},
		{".quit", "", "leave the shell", 0, 0, false, quit},
		{".read", "FILE", "run the statements and commands of a file", 1, 1, false, read},
		{".schema", "[TABLE]", "show the columns of one table or of all", 0, 1, true, showSchema},
		{".show", "", "show the settings", 0, 0, true, showSettings},
		{".tables", "", "list the tables", 0, 0, true, showTables},
		{".timer", "on|off", "show how long each statement takes, or not", 1, 1, false, setTimer},
		{".width", "[N...]", "set the widths of a table's columns; 0 fits the terminal", 0, anyNumber, false, setWidths},
	}
}

func showHelp(_ context.Context, s *session, words []string) error {
	var b strings.Builder
	var only string
	if len(words) > 0 {
		c, err := findCommand("." + strings.TrimPrefix(words[0], "."))
		if err != nil {
			return err
		}
		only = c.name
	}
	for _, c := range commands() {
		if only == "" || c.name == only {
			fmt.Fprintf(&b, "%-17s %s\n", strings.TrimSpace(c.name+" "+c.arguments), c.help)
		}
	}
	if only != "" {
		_, err := io.WriteString(s.out, b.String())
		return err
	}
	b.WriteString("Anything else is SQL and ends with a semicolon.\n" +
		"ago('1h') is the time an hour ago, and utc(time) shows a time as text.\n")
	_, err := io.WriteString(s.out, b.String())
	return err
}

// bareWords are what users of other shells type to leave or to ask.
var bareWords = map[string]string{
	"exit": ".exit", "quit": ".quit", "help": ".help", "?": ".help", `\q`: ".quit", `\?`: ".help", `\h`: ".help", `\d`: ".tables", `\dt`: ".tables",
}

// isCommand reports whether a line is none of SQL.
func isCommand(line string) bool {
	line = strings.TrimSpace(line)
	return strings.HasPrefix(line, ".") || bareWords[bare(line)] != ""
}

// bare returns a line without the semicolon that ends a statement.
func bare(line string) string {
	return strings.ToLower(strings.TrimRight(strings.TrimSpace(line), "; \t"))
}

// command runs a command. In JSON, what it prints becomes a string of the document.
func (s *session) command(ctx context.Context, line string) error {
	if meant := bareWords[bare(line)]; meant != "" {
		return s.failedCommand(fmt.Errorf("commands begin with a dot; did you mean %s?", meant))
	}
	words, err := shellquote.Split(strings.TrimRight(strings.TrimSpace(line), "; \t"))
	switch {
	case err != nil:
		return s.failedCommand(fmt.Errorf("read command: %w", err))
	case len(words) == 0:
		words = []string{"."}
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
		if c.name == strings.ToLower(name) {
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

func setPager(_ context.Context, s *session, words []string) error {
	on, err := onOff(words[0])
	if err == nil {
		s.hasPager = on
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
	_, err := fmt.Fprintf(s.out, "headers   %s\nmode      %s\nnullvalue %q\noutput    %s\npager     %s\ntimer     %s\nwidth     %s\n",
		name[!s.noHeaders], s.format, s.nullText(), output, name[s.hasPager], name[s.hasTimer], widths)
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
	s.once = words[0]
	return nil
}

func setOutput(_ context.Context, s *session, words []string) error {
	if err := s.closeOutput(); err != nil || len(words) == 0 {
		return err
	}
	if len(s.document.results) > 0 {
		if err := s.flush(); err != nil {
			return err
		}
	}
	file, err := openOutput(words[0])
	if err == nil {
		s.file, s.out = file, file
	}
	return err
}

// openOutput opens a new file, which only its owner can read, or one that exists, without what it
// has. It follows no link: root's shell may run in a folder that others can write. It does not wait
// for a program at the other end of a pipe.
func openOutput(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	switch {
	case errors.Is(err, unix.ELOOP):
		return nil, fmt.Errorf("%s is a link; write to the file that it names", path)
	case errors.Is(err, unix.ENXIO):
		return nil, fmt.Errorf("%s is a pipe that no program reads", path)
	case err != nil:
		return nil, fmt.Errorf("open output: %w", err)
	}
	return file, nil
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
	s.file, s.out = nil, s.standard
	return err
}

// maxReadDepth is how many files may read each other.
const maxReadDepth = 8

func read(ctx context.Context, s *session, words []string) error {
	if s.depth == maxReadDepth {
		return fmt.Errorf("%s is read by %d files that read each other; run it by itself", words[0], maxReadDepth)
	}
	// Without O_NONBLOCK, a pipe that no program writes would take the keyboard.
	file, err := os.OpenFile(words[0], os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("read statements: %w", err)
	}
	defer file.Close()
	switch info, err := file.Stat(); {
	case err != nil:
		return fmt.Errorf("read statements: %w", err)
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is no regular file", words[0])
	}
	lines, place, line := s.lines, s.place, s.line
	s.lines, s.place, s.depth = &stream{reader: bufio.NewReader(file)}, words[0]+", ", s.depth+1
	defer func() { s.lines, s.place, s.line, s.depth = lines, place, line, s.depth-1 }()
	return s.runLines(ctx)
}

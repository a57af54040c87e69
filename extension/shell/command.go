package shell

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

const help = `.exit            leave the shell
.help            show this text
.mode [FORMAT]   show or set the format: ` + formatNames + `
.quit            leave the shell
.schema [TABLE]  show the columns of one table or of all
.tables          list the tables
Anything else is SQL and ends with a semicolon.
`

// errQuit ends the shell.
var errQuit = errors.New("quit")

// A command runs a line that begins with a dot.
type command struct {
	words int // maximum number of words after the name
	run   func(ctx context.Context, s *session, words []string) error
}

var commands = map[string]command{
	".exit":   {run: quit},
	".help":   {run: showHelp},
	".mode":   {words: 1, run: setMode},
	".quit":   {run: quit},
	".schema": {words: 1, run: showSchema},
	".tables": {run: showTables},
}

func (s *session) command(ctx context.Context, line string) error {
	words := strings.Fields(line)
	c, ok := commands[words[0]]
	if !ok {
		return fmt.Errorf("unknown command %s; .help lists the commands", words[0])
	}
	if len(words)-1 > c.words {
		return fmt.Errorf("too many words after %s; .help shows its arguments", words[0])
	}
	return c.run(ctx, s, words[1:])
}

func quit(context.Context, *session, []string) error { return errQuit }

func showHelp(_ context.Context, s *session, _ []string) error {
	_, err := fmt.Fprint(s.out, help)
	return err
}

func setMode(_ context.Context, s *session, words []string) error {
	if len(words) == 0 {
		_, err := fmt.Fprintln(s.out, s.format)
		return err
	}
	f, err := ParseFormat(words[0])
	if err != nil {
		return err
	}
	s.format = f
	return nil
}

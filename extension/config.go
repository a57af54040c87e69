package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	osquery "github.com/osquery/osquery-go"
	"github.com/peterbourgon/ff/v3"

	"github.com/kmodquery/kmodquery/extension/shell"
	"github.com/kmodquery/kmodquery/tables"
	"github.com/kmodquery/kmodquery/tables/sqlite"
)

const (
	envPrefix         = "KMODQUERY"
	defaultConfigFile = "/etc/kmodquery/kmodquery.conf"
	defaultPinDir     = "/sys/fs/bpf/kmodquery"
	noPinDir          = "none"
)

// A config is everything that can be set: by flag, by environment variable
// (KMODQUERY_STATE_DIR for --state-dir), or by a line "state-dir /path" in the
// configuration file; the first of these that speaks wins.
type config struct {
	platform *platform

	command string // "" serves osquery
	args    []string

	configFile      string
	stateDir        string
	retentionAge    time.Duration
	retentionEvents int64
	retentionDenied int64
	sources         []string // nil leaves the choice to this program
	poll            time.Duration
	imageLimit      int64
	pinDir          string // "" pins nothing
	replyLimit      int64
	queryTimeout    time.Duration

	// osquery's own flags; it gives them in whole seconds.
	socket   string
	timeout  int
	interval int
	verbose  bool

	format shell.Format
}

// The commands beside serving osquery, and what they do.
var commands = []struct{ name, usage string }{
	{"query", "query [SQL]     answer SQL without osquery; a shell where there is no SQL and a terminal"},
	{"record", "record          record without osquery, as a service of its own; waits where another process records"},
	{"detach", "detach          Linux: store what the pinned programs saw, and remove them"},
	// No flag: KMODQUERY_VERSION may be set on a host and mean something else.
	{"--version", "--version       print the version"},
}

func (c *config) flagSet() *flag.FlagSet {
	flags := flag.NewFlagSet("kmodquery.ext", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&c.configFile, "config", defaultConfigFile, "configuration `file` with one \"flag value\" a line")
	flags.StringVar(&c.stateDir, "state-dir", defaultStateDir(), "`folder` of the event store")
	flags.DurationVar(&c.retentionAge, "retention-age", sqlite.DefaultMaxAge, "keep events this long; 0 for ever")
	flags.Int64Var(&c.retentionEvents, "retention-events", sqlite.DefaultMaxEvents, "keep this `many` of the newest events, beside those of retention-denied; 0 all")
	flags.Int64Var(&c.retentionDenied, "retention-denied", sqlite.DefaultMaxUnprivileged, "keep this `many` of the newest rows that any user can cause: denied attempts and requests for modules; 0 all")
	flags.Func("sources", "the `names` of the sources to run side by side, separated by commas, of "+strings.Join(c.platform.sourceNames, ", ")+
		"; auto runs "+c.platform.automatic()+" (default auto)", func(names string) (err error) {
		c.sources, err = c.platform.parseSources(names)
		return err
	})
	flags.DurationVar(&c.poll, "poll", c.platform.defaultPoll, "find within this `time` what is loaded and no source saw, or hides")
	flags.Int64Var(&c.imageLimit, "image-limit", c.platform.maxImageLimit, "Linux: hash modules of up to this many `bytes` as the kernel has them, larger ones from their file")
	flags.Func("pin-dir", "Linux: `folder` of a BPF file system in which the programs stay attached while nothing records; none pins nothing (default "+defaultPinDir+")", func(dir string) error {
		if c.pinDir = dir; dir == noPinDir {
			c.pinDir = ""
		}
		return nil
	})
	c.pinDir = defaultPinDir
	flags.Int64Var(&c.replyLimit, "reply-limit", tables.DefaultReplyBytes, "fail a table's reply beyond this many `bytes`, before osquery's watchdog kills its worker")
	flags.DurationVar(&c.queryTimeout, "query-timeout", tables.DefaultTimeout, "fail a table's reply after this long")
	flags.StringVar(&c.socket, "socket", "", "osquery: `path` of its extension socket")
	flags.IntVar(&c.timeout, "timeout", 3, "osquery: `seconds` to wait for its socket and its answers")
	flags.IntVar(&c.interval, "interval", 3, "osquery: `seconds` between looks whether it is still there")
	flags.BoolVar(&c.verbose, "verbose", false, "osquery: say more")
	c.format = shell.Table
	flags.Func("format", "query: `form` of the answer: table, json, csv or line (default table)", func(name string) (err error) {
		c.format, err = shell.ParseFormat(name)
		return err
	})
	return flags
}

// parse reads the command line, the environment and the configuration file, for
// a platform. Its error is one line; flag.ErrHelp asks for the usage.
func parse(p *platform, args []string) (*config, error) {
	c := &config{platform: p}
	if len(args) > 0 && isCommand(args[0]) {
		c.command, args = args[0], args[1:]
	}
	if c.command == "--version" {
		return c, nil
	}
	flags := c.flagSet()
	err := ff.Parse(flags, args,
		ff.WithEnvVarPrefix(envPrefix),
		// ff opens whatever it is told to, so it gets a file that says nothing
		// and c reads its own.
		ff.WithConfigFile(os.DevNull),
		ff.WithConfigFileParser(func(_ io.Reader, set func(name, value string) error) error {
			return c.readFile(func(name, value string) error {
				// What the parser makes of a line that has none.
				if value == "true" && name != "verbose" && flags.Lookup(name) != nil {
					return fmt.Errorf("%s has no value in the configuration file", name)
				}
				return set(name, value)
			})
		}),
	)
	if err != nil {
		return nil, err
	}
	c.args = flags.Args()
	switch {
	case c.command == "" && len(c.args) > 0 && isCommand(c.args[0]):
		return nil, fmt.Errorf("put the command %s before the flags", c.args[0])
	case c.command == "" && len(c.args) > 0:
		return nil, fmt.Errorf("unknown command %q", c.args[0])
	case c.command == "" && c.socket == "":
		return nil, errors.New("--socket is missing: osquery gives it when it starts an extension; to ask without osquery use: kmodquery.ext query")
	case (c.command == "record" || c.command == "detach") && len(c.args) > 0:
		return nil, fmt.Errorf("%s takes flags only, not %q", c.command, c.args[0])
	case c.stateDir == "":
		return nil, errors.New("--state-dir takes a folder")
	case len(c.socket) > osquery.MaxSocketPathCharacters:
		return nil, fmt.Errorf("--socket has %d characters and osquery's sockets have at most %d", len(c.socket), osquery.MaxSocketPathCharacters)
	case c.command == "query" && len(c.args) > 1 && strings.HasPrefix(c.args[1], "-"):
		return nil, errors.New("query takes one SQL text: put the flags before it")
	case c.command == "query" && len(c.args) > 1:
		return nil, errors.New("query takes one SQL text: put it in quotes")
	case c.timeout <= 0 || c.interval <= 0:
		return nil, errors.New("--timeout and --interval take a number of seconds greater than 0")
	case c.imageLimit < 0 || c.imageLimit > c.platform.maxImageLimit:
		return nil, fmt.Errorf("--image-limit takes a number of bytes from 0 to %d", c.platform.maxImageLimit)
	case c.poll < time.Second:
		return nil, errors.New("--poll takes a time of a second or more")
	case c.replyLimit <= 0 || c.queryTimeout <= 0:
		return nil, errors.New("--reply-limit and --query-timeout take a value greater than 0")
	case c.retentionAge < 0 || c.retentionEvents < 0 || c.retentionDenied < 0:
		return nil, errors.New("--retention-age, --retention-events and --retention-denied take a value that is not negative; 0 keeps everything")
	}
	return c, nil
}

// readFile sets what stands in the configuration file, if there is one.
func (c *config) readFile(set func(name, value string) error) error {
	if c.configFile == "" {
		return nil
	}
	content, err := readConfigFile(c.configFile)
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	return ff.PlainParser(bytes.NewReader(content), set)
}

func isCommand(word string) bool {
	for _, command := range commands {
		if command.name == word {
			return true
		}
	}
	return false
}

// defaultStateDir is the system's for root, and the user's own for others, who
// can read what they may but record nothing of the kernel.
func defaultStateDir() string {
	const system = "/var/lib/kmodquery"
	if os.Geteuid() == 0 {
		return system
	}
	if dir := os.Getenv("XDG_STATE_HOME"); dir != "" {
		return filepath.Join(dir, "kmodquery")
	}
	if home, err := os.UserHomeDir(); err == nil {
		return filepath.Join(home, ".local", "state", "kmodquery")
	}
	return system
}

func usage(p *platform, w io.Writer) {
	fmt.Fprintln(w, "kmodquery.ext --socket PATH   serve osquery")
	for _, command := range commands {
		fmt.Fprintln(w, "kmodquery.ext", command.usage)
	}
	fmt.Fprintln(w, "\nEvery flag is also an environment variable (KMODQUERY_STATE_DIR for --state-dir) and a line in the configuration file.")
	fmt.Fprintln(w)
	flags := (&config{platform: p}).flagSet()
	flags.SetOutput(w)
	flags.PrintDefaults()
}

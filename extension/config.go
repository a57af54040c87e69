package main

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	osquery "github.com/osquery/osquery-go"
	"github.com/spf13/pflag"

	"github.com/kmodquery/kmodquery/extension/shell"
	"github.com/kmodquery/kmodquery/tables"
	"github.com/kmodquery/kmodquery/tables/sqlite"
)

const (
	envPrefix         = "KMODQUERY_"
	defaultConfigFile = "/etc/kmodquery/kmodquery.conf"
	defaultPinDir     = "/sys/fs/bpf/kmodquery"
	noPinDir          = "none"
	defaultRulesDir   = "/etc/kmodquery/rules.d"
	defaultExpectDir  = "/etc/kmodquery/expect.d"
	noFolder          = "none"
)

// A config holds the settings. Each can be a flag, an environment variable
// (KMODQUERY_STATE_DIR for --state-dir) or a line "state-dir /path" in the configuration
// file. A flag overrides the variable, and the variable overrides the file.
type config struct {
	platform    *platform
	commandLine []string // all of it

	command string   // such as "query"; "" serves osquery
	args    []string // of the command
	run     action   // of the command; nil if printed is all there is to do
	printed strings.Builder

	configFile      string
	stateDir        string
	eslogger        string // absolute path
	retentionAge    time.Duration
	retentionEvents int64
	retentionDenied int64
	sources         []string // nil for auto
	poll            time.Duration
	imageLimit      int64
	pinDir          string // "" pins nothing
	isWithoutCanary bool
	rulesDir        string // "" has no rules
	expectDir       string // "" has no expectations
	replyLimit      int64
	queryTimeout    time.Duration

	// The flags that osquery passes to every extension; times are in whole seconds.
	socket   string
	timeout  int64
	interval int64
	verbose  bool

	format shell.Format

	isDoctorJSON bool          // of the command doctor
	reportSince  time.Duration // of the command report
	watch        watchOptions
	isTemporary  bool // the event store of query

	// mistake is what is wrong in the environment or the configuration file. An extension that
	// osquery starts then serves its tables and records nothing, and so does the command
	// record where the service manager restarts it always; every other command fails.
	mistake error
	// isLasting is set if the mistake is in the environment, which only a restart by hand
	// corrects.
	isLasting bool

	all     []setting // by name
	unknown []string  // descriptions of environment variables that look like settings

	notifier *notifier // of record; nil otherwise
}

func (c *config) flagSet() *pflag.FlagSet {
	flags := pflag.NewFlagSet("kmodquery.ext", pflag.ContinueOnError)
	automatic := "the first of them that works"
	if c.platform.sideBySide {
		automatic = "all of them"
	}
	flags.StringVar(&c.configFile, "config", defaultConfigFile, "configuration `file` with one \"name value\" per line")
	flags.StringVar(&c.stateDir, "state-dir", defaultStateDir(), "`folder` of the event store")
	flags.Var(duration(&c.retentionAge, sqlite.DefaultMaxAge, 0), "retention-age", "delete events that are older than this `time`; 0 keeps events of any age. The command query deletes none for their age")
	flags.Var(number(&c.retentionEvents, sqlite.DefaultMaxEvents, 0, unlimited), "retention-events", "keep this `number` of the newest events, not counting those of retention-denied; 0 keeps all")
	flags.Var(number(&c.retentionDenied, sqlite.DefaultMaxUnprivileged, 0, unlimited), "retention-denied", "keep this `number` of the newest events that any user can cause: denied attempts, refused kernel extensions and requests for modules; 0 keeps all")
	flags.Func("sources", "comma-separated `names` of the sources to run side by side, out of "+strings.Join(c.platform.sourceNames, ", ")+
		"; auto runs "+automatic+" (default auto)", func(names string) (err error) {
		c.sources, err = c.platform.parseSources(names)
		return err
	})
	flags.Var(duration(&c.poll, c.platform.defaultPoll, time.Second), "poll", "`time` within which hidden modules and unobserved loads are found")
	flags.Var(number(&c.imageLimit, c.platform.maxImageLimit, 0, c.platform.maxImageLimit), "image-limit", "Linux: hash the kernel's copy of modules of up to this many `bytes`, and the file of larger ones")
	flags.StringVar(&c.pinDir, "pin-dir", defaultPinDir, "Linux: `folder` in a BPF file system where the programs are pinned, which keeps them attached while no process records; none pins nothing")
	flags.Func("canary", "Linux: `on|off`: test the hooks when they are attached by a call of init_module that the kernel denies, which audit may report (default on)", func(text string) error {
		if c.isWithoutCanary = text == "off"; text != "on" && text != "off" {
			return errors.New("write on or off")
		}
		return nil
	})
	c.eslogger = defaultEslogger
	flags.Var(absolutePath{&c.eslogger}, "eslogger", "macOS: `program` that prints kextload and kextunload as eslogger(1) does, such as an Endpoint Security client of your own that denies loads; only root may be able to change it")
	flags.StringVar(&c.rulesDir, "rules-dir", defaultRulesDir, "`folder` of rules of your own, files NAME.yaml; none has no rules")
	flags.StringVar(&c.expectDir, "expect-dir", defaultExpectDir, "`folder` of the loads that are expected, files NAME.yaml; none expects none")
	flags.Var(number(&c.replyLimit, tables.DefaultReplyBytes, 1, unlimited), "reply-limit", "return an error if a table's reply has more than this many `bytes`; under osquery's watchdog its limit holds instead")
	flags.Var(duration(&c.queryTimeout, tables.DefaultTimeout, time.Millisecond), "query-timeout", "return an error if a table takes longer than this `time` to reply")
	flags.StringVar(&c.socket, "socket", "", "osquery: `path` of the extension socket")
	flags.Var(number(&c.timeout, 3, 1, math.MaxInt32), "timeout", "osquery: `seconds` to wait for the socket and for each answer")
	flags.Var(number(&c.interval, 3, 1, math.MaxInt32), "interval", "osquery: `seconds` between checks that osquery still lists the extension")
	flags.BoolVar(&c.verbose, "verbose", false, "osquery: report the state of each source at the start")
	c.format = shell.Table
	flags.Func("format", "query: output `format`: table, json, csv or line (default table)", func(name string) (err error) {
		c.format, err = shell.ParseFormat(name)
		return err
	})
	return flags
}

// complete takes the settings that the command line does not have from the environment and the
// configuration file, and checks all.
func (c *config) complete(flags *pflag.FlagSet) error {
	origins := map[string]string{} // of the settings that are not the default
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Changed {
			origins[f.Name] = "command line"
		}
	})
	mistake := parseEnvironment(flags, origins) // it may name the file
	c.isLasting = mistake != nil
	c.mistake = cmp.Or(mistake, parseConfigFile(c.configFile, flags, origins))
	c.unknown = unknownVariables(flags, os.Environ())
	if c.pinDir == noPinDir {
		c.pinDir = ""
	}
	if c.rulesDir == noFolder {
		c.rulesDir = ""
	}
	if c.expectDir == noFolder {
		c.expectDir = ""
	}
	switch {
	case c.mistake != nil && c.command != "" && c.command != "doctor" && (c.command != "record" || !c.platform.restartsAlways):
		return c.mistake
	case c.command == "" && c.socket == "":
		return errors.New("--socket is missing: osquery passes it when it starts an extension; to query without osquery, run: kmodquery.ext query")
	case c.stateDir == "":
		return errors.New("--state-dir takes a folder")
	case len(c.socket) > osquery.MaxSocketPathCharacters:
		return fmt.Errorf("--socket has %d characters; osquery's sockets have at most %d", len(c.socket), osquery.MaxSocketPathCharacters)
	}
	c.all = c.settings(flags, origins)
	return nil
}

// variable returns the environment variable of a flag.
func variable(name string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

// parseEnvironment sets each flag that has no origin yet and has a valid environment
// variable. It returns the first mistake. An empty variable counts as unset.
func parseEnvironment(flags *pflag.FlagSet, origins map[string]string) (mistake error) {
	flags.VisitAll(func(f *pflag.Flag) {
		name := variable(f.Name)
		value := os.Getenv(name)
		if value == "" || origins[f.Name] != "" {
			return
		}
		if err := f.Value.Set(value); err == nil {
			origins[f.Name] = "environment variable " + name
		} else if mistake == nil {
			mistake = fmt.Errorf("environment variable %s=%s: %w", name, value, err)
		}
	})
	return mistake
}

// osqueryTimeout is how long osquery may take to create its socket, and for each answer.
func (c *config) osqueryTimeout() time.Duration { return time.Duration(c.timeout) * time.Second }

// defaultStateDir returns the system's state folder for root, and a folder of the user's
// own for other users, who cannot record the kernel's events.
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

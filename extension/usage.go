package main

import (
	"cmp"
	"flag"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/internal/human"
)

// A command is one that a person or a service manager runs. Without a command, the
// extension serves osquery.
type command struct {
	name, arguments, does string
	// flagsOf is the beginning of the usages of flags that only this command has.
	flagsOf  string
	examples []string
}

var commands = []command{
	{"query", "[SQL]", "run SQL or a dot command without osquery; without it, run the statements of stdin, or a shell on a terminal", "query:", []string{
		`kmodquery.ext query`,
		`kmodquery.ext query .tables`,
		`kmodquery.ext query "SELECT utc(time) AS utc, outcome, name, path FROM kernel_module_loads WHERE time > ago('1d')"`,
		`kmodquery.ext query --line "SELECT source, state, reason FROM kernel_module_sensors"`,
		`kmodquery.ext query --json "SELECT * FROM kernel_module_findings" >findings.json`,
	}},
	{"record", "", "record without osquery, as a service; wait while another process records", "", []string{
		`kmodquery.ext record --verbose`,
	}},
	{"detach", "", "Linux: store the events of the pinned programs, and remove the programs", "", []string{
		`kmodquery.ext detach`,
	}},
	{"config", "show|check", "show each setting and where it comes from; look for mistakes in the configuration", "", []string{
		`kmodquery.ext config show`,
		`kmodquery.ext config check`,
	}},
	{"expect", "learn [FILE]|check FILE", "write expectations of the loads in the event store; say which of its findings a file of expectations changes", "", []string{
		`kmodquery.ext expect learn /etc/kmodquery/expect.d/learned.yaml`,
		`kmodquery.ext expect check /tmp/new.yaml`,
	}},
	{"version", "", "print the version and the commit of the build", "", []string{
		`kmodquery.ext version`,
	}},
	{"help", "[COMMAND]", "explain all commands or one", "", []string{
		`kmodquery.ext help query`,
	}},
	// --version is not a flag, because a host may use KMODQUERY_VERSION for something else.
	{"--version", "", "print the version alone", "", nil},
}

func (c *command) usage() string { return strings.TrimSpace(c.name + " " + c.arguments) }

// findCommand returns the command of that name, or nil.
func findCommand(name string) *command {
	i := slices.IndexFunc(commands, func(c command) bool { return c.name == name })
	if i < 0 {
		return nil
	}
	return &commands[i]
}

func unknownCommand(name string) error {
	var names []string
	for _, c := range commands {
		names = append(names, c.name)
	}
	if nearest := human.Nearest(name, names); nearest != "" {
		return fmt.Errorf("unknown command %q; did you mean %s?", name, nearest)
	}
	return fmt.Errorf("unknown command %q", name)
}

// usage explains the command that the arguments of a command line ask about, or all.
func usage(p *platform, w io.Writer, args ...string) {
	if len(args) > 1 && args[0] == "help" {
		args = args[1:]
	}
	var about *command
	if len(args) > 0 && args[0] != "help" {
		about = findCommand(args[0])
	}
	flags := (&config{platform: p}).flagSet()
	if about == nil {
		fmt.Fprintf(w, "%-33s serve osquery\n", "kmodquery.ext --socket PATH")
		for _, c := range commands {
			fmt.Fprintf(w, "%-33s %s\n", "kmodquery.ext "+c.usage(), c.does)
		}
	} else {
		fmt.Fprintf(w, "kmodquery.ext %s\n\n%s.\n", about.usage(), strings.ToUpper(about.does[:1])+about.does[1:])
		if len(about.examples) > 0 {
			fmt.Fprintf(w, "\nExamples:\n\n  %s\n", strings.Join(about.examples, "\n  "))
		}
		flags = about.flags(flags)
	}
	fmt.Fprintln(w, "\nEvery flag can also be an environment variable (KMODQUERY_STATE_DIR for --state-dir) or a line in the configuration file.")
	fmt.Fprintln(w)
	flags.SetOutput(w)
	flags.PrintDefaults()
}

// flags returns the flags without those of other commands and of osquery.
func (c *command) flags(all *flag.FlagSet) *flag.FlagSet {
	flags := flag.NewFlagSet(c.name, flag.ContinueOnError)
	all.VisitAll(func(f *flag.Flag) {
		of, _, isOf := strings.Cut(f.Usage, ": ")
		if !isOf || of != "osquery" && (of != "query" || c.flagsOf != "") {
			flags.Var(f.Value, f.Name, f.Usage)
		}
	})
	return flags
}

// version describes the build. Without a commit it was not built in a work tree.
func version() string {
	commit, state, built := "unknown", "", runtime.Version()
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision":
				commit = s.Value
			case s.Key == "vcs.time":
				state = " of " + s.Value + state
			case s.Key == "vcs.modified" && s.Value == "true":
				state += ", with changes"
			}
		}
		built = cmp.Or(info.GoVersion, built)
	}
	return fmt.Sprintf("kmodquery.ext %s\ncommit %s%s\nbuilt with %s for %s/%s\n", kmodquery.Version, commit, state, built, runtime.GOOS, runtime.GOARCH)
}

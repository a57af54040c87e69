package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"regexp"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/extension/shell"
	"github.com/kmodquery/kmodquery/internal/human"
)

const program = "kmodquery.ext"

// files are the standard files of a command. report takes the messages for users on stderr.
type files struct {
	stdin          *os.File
	stdout, stderr io.Writer
	report         *log.Logger
}

// An action runs a command until it has ended or ctx ends.
type action func(ctx context.Context, c *config, f files) error

// commands returns the command line: the parser of arguments, the help, the completion of shells
// and the man pages come from it. A command that the arguments select sets c, and prints what
// needs no settings.
func commands(c *config) *cobra.Command {
	root := c.newCommand(func(ctx context.Context, c *config, f files) error { return serve(ctx, c, f.report) }, &cobra.Command{
		Use:   program + " --socket PATH",
		Short: "tell which kernel modules were loaded, when, by whom and from where",
		Long: `Tell which kernel modules were loaded, when, by whom and from where.

Without a command it serves its tables to the osquery that started it.

Every flag can also be an environment variable (KMODQUERY_STATE_DIR for --state-dir) or a line in
the configuration file ("state-dir /path"). A flag overrides the variable, and the variable
overrides the file.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return nil
		},
	})
	// It is not a setting: a host may use KMODQUERY_VERSION for something else. Cobra's own flag
	// and templates would make the program a fifth larger.
	isVersion, run := root.Flags().Bool("version", false, "print the version alone"), root.RunE
	root.RunE = func(cmd *cobra.Command, args []string) error {
		if *isVersion {
			fmt.Fprintln(cmd.OutOrStdout(), program, kmodquery.Version)
			return nil
		}
		return run(cmd, args)
	}
	root.SilenceErrors, root.SilenceUsage = true, true
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		var unknown *pflag.NotExistError
		if errors.As(err, &unknown) {
			return fmt.Errorf("%w%s", err, nearest(unknown.GetSpecifiedName(), cmd.Flags()))
		}
		return err
	})
	configCommand := &cobra.Command{
		Use:     "config",
		Short:   "show the settings, or look for mistakes in them",
		Example: examples("config show", "config check"),
		RunE:    func(*cobra.Command, []string) error { return errors.New("write: config show, or: config check") },
	}
	configCommand.AddCommand(
		c.newCommand(showConfig, &cobra.Command{
			Use:     "show",
			Short:   "show each setting and where it comes from",
			Example: examples("config show"),
		}),
		c.newCommand(checkConfig, &cobra.Command{
			Use:     "check",
			Short:   "look for mistakes in the configuration",
			Example: examples("config check"),
		}))
	expectCommand := &cobra.Command{
		Use:     "expect",
		Short:   "write which loads are expected, or say what a change of that would do",
		Example: examples("expect learn", "expect learn >new.yaml", "expect check new.yaml"),
		RunE:    func(*cobra.Command, []string) error { return errExpect },
	}
	expectCommand.AddCommand(
		c.newCommand(expectLearn, &cobra.Command{
			Use:     "learn [FILE]",
			Short:   "write expectations of the loads in the event store",
			Example: examples("expect learn", "expect learn >new.yaml"),
			Args:    between(0, 1, errExpect),
		}),
		c.newCommand(expectCheck, &cobra.Command{
			Use:     "check FILE",
			Short:   "say which findings of the event store a file of expectations changes",
			Example: examples("expect learn >new.yaml", "expect check new.yaml"),
			Args:    between(1, 1, errExpect),
		}))
	root.AddCommand(
		c.queryCommand(),
		c.watchCommand(),
		c.newCommand(func(ctx context.Context, c *config, f files) error { return record(ctx, c, f.report) }, &cobra.Command{
			Use:     "record",
			Short:   "record without osquery, as a service; wait while another process records",
			Example: examples("record --verbose"),
		}),
		c.newCommand(func(ctx context.Context, c *config, f files) error { return detach(ctx, c, f.stdout, f.report) }, &cobra.Command{
			Use:     "detach",
			Short:   "Linux: store the events of the pinned programs, and remove the programs",
			Example: examples("detach"),
		}),
		c.doctorCommand(),
		c.reportCommand(),
		configCommand,
		expectCommand,
		&cobra.Command{
			Use:     "version",
			Short:   "print the version and the commit of the build",
			Example: examples("version"),
			Args:    flagsOnly,
			Run:     func(cmd *cobra.Command, _ []string) { fmt.Fprint(cmd.OutOrStdout(), version()) },
		},
		completion())
	root.SetHelpCommand(&cobra.Command{
		Use:     "help [COMMAND]",
		Short:   "explain all commands or one",
		Example: examples("help query"),
		RunE: func(cmd *cobra.Command, args []string) error {
			about, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return unknownCommand(cmd, strings.Join(args, " "))
			}
			about.InitDefaultHelpFlag()
			return about.Help()
		},
	})
	return root
}

func (c *config) queryCommand() *cobra.Command {
	cmd := c.withFormats(c.newCommand(query, &cobra.Command{
		Use:   "query [SQL]",
		Short: "run SQL or a dot command without osquery",
		Long: `Run SQL or a command of the shell, such as .tables, without osquery. Without SQL, run the
statements of stdin, or a shell on a terminal.`,
		Example: examples(
			`query`,
			`query .tables`,
			`query "SELECT utc(time) AS utc, outcome, name, path FROM kernel_module_loads WHERE time > ago('1d')"`,
			`query --line "SELECT source, state, reason FROM kernel_module_sensors"`,
			`query --json "SELECT * FROM kernel_module_findings" >findings.json`),
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return errors.New("query takes one SQL text: put it in quotes")
			}
			return nil
		},
	}))
	cmd.Flags().BoolVar(&c.isTemporary, "temp", false, "record into a temporary event store, which is removed at the end")
	return cmd
}

func (c *config) watchCommand() *cobra.Command {
	cmd := c.newCommand(watch, &cobra.Command{
		Use:   "watch",
		Short: "print a line for each load and each finding as it happens",
		Long: `Print a line for each load, once its attempt is over, and for each finding that belongs to no
load: time, severity, outcome, module, and what is known as name=value. It records itself while
no other process does. With --json it prints a JSON object a line.`,
		Example: examples(
			`watch`,
			`watch --since 1d --where "severity >= 3"`,
			`watch --json >>/var/log/kmodquery.json`),
	})
	o, flags := &c.watch, cmd.Flags()
	flags.BoolFunc("json", "print a JSON object a line", func(string) error { return cmd.Flags().Set("format", "json") })
	flags.StringVar(&o.where, "where", "", "`condition` in SQL of the rows that are printed, on the fields of --json, such as \"severity >= 3\"")
	flags.Var(duration(&o.since, 0, 0), "since", "begin this `time` ago, such as 1h or 7d, and not with what happens from now on")
	flags.StringVar(&o.position, "position", "", "`file` that keeps which rows were printed; the next run with it goes on there")
	flags.BoolVar(&o.priority, "priority", false, "begin each line with its severity as <N>, which the journal and logger --prio-prefix take as its priority")
	flags.BoolVar(&o.isReader, "no-record", false, "only read what another process records; wait for it")
	return cmd
}

// newCommand completes a command with settings, which runs an action.
func (c *config) newCommand(run action, cmd *cobra.Command) *cobra.Command {
	if cmd.Args == nil {
		cmd.Args = flagsOnly
	}
	settings := c.flagSet()
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		_, c.command, _ = strings.Cut(cmd.CommandPath(), " ")
		c.run, c.args = run, args
		return c.complete(settings)
	}
	settings.VisitAll(func(f *pflag.Flag) {
		of, _, _ := strings.Cut(f.Usage, ": ")
		f.Hidden = of == "query" || of == "osquery" && !strings.HasPrefix(cmd.Use, program)
		cmd.Flags().AddFlag(f)
	})
	if cmd.ValidArgsFunction == nil {
		cmd.ValidArgsFunction = cobra.NoFileCompletions
	}
	for name, values := range map[string][]string{"format": {"table", "json", "csv", "line"}, "canary": {"on", "off"}, "sources": append([]string{"auto"}, c.platform.sourceNames...)} {
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	}
	return cmd
}

// withFormats adds osqueryi's names for --format to a command.
func (c *config) withFormats(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().Lookup("format").Hidden = false
	for name, format := range map[string]shell.Format{"json": shell.JSON, "csv": shell.CSV, "line": shell.Line, "pretty": shell.Table} {
		cmd.Flags().BoolFunc(name, "short for --format "+string(format), func(string) error {
			return cmd.Flags().Set("format", string(format))
		})
	}
	return cmd
}

var errExpect = errors.New("write: expect learn [FILE], or: expect check FILE")

// between returns a check of the number of arguments.
func between(least, most int, err error) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) < least || len(args) > most {
			return err
		}
		return nil
	}
}

func (c *config) doctorCommand() *cobra.Command {
	cmd := c.newCommand(runDoctor, &cobra.Command{
		Use:   "doctor",
		Short: "check all that kmodquery needs on this host, and say what to do",
		Long: `Check all that kmodquery needs on this host, one line each with the reason and what to do. It
changes nothing.

The exit status is 0 if all is well, 1 for a warning, 2 if something is critical, and 3 if
something is unknown. The worst one counts.`,
		Example: examples("doctor", "doctor --json"),
	})
	cmd.Flags().BoolVar(&c.isDoctorJSON, "json", false, "print one JSON document")
	cmd.Flags().Lookup("socket").Hidden = false
	return cmd
}

func (c *config) reportCommand() *cobra.Command {
	cmd := c.newCommand(writeReport, &cobra.Command{
		Use:   "report",
		Short: "write a page of HTML about the loads, findings and sensors of the last days",
		Long: `Write a page of HTML about the loads, findings, autostart, modules that differ and sensors of
the last days. It is complete in itself: it fetches nothing and runs no script.`,
		Example: examples("report >report.html", "report --since 30d >report.html"),
	})
	cmd.Flags().Var(duration(&c.reportSince, 7*24*time.Hour, time.Second), "since", "begin this `time` ago")
	return cmd
}

func flagsOnly(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%s takes flags only, not %q", cmd.Name(), args[0])
	}
	return nil
}

// examples returns lines of a command line that can be pasted.
func examples(lines ...string) string {
	return "  " + program + " " + strings.Join(lines, "\n  "+program+" ")
}

func unknownCommand(cmd *cobra.Command, name string) error {
	var names []string
	for _, c := range cmd.Root().Commands() {
		names = append(names, c.Name())
	}
	if nearest := human.Nearest(name, names); nearest != "" {
		return fmt.Errorf("unknown command %q; did you mean %s?", name, nearest)
	}
	return fmt.Errorf("unknown command %q", name)
}

// completion returns the command that prints the completion of a shell. The script asks this
// program what to complete.
func completion() *cobra.Command {
	return &cobra.Command{
		Use:       "completion bash|zsh|fish",
		Short:     "print the completion of commands and flags for a shell",
		Example:   examples("completion bash >/etc/bash_completion.d/"+program, "completion zsh >/usr/local/share/zsh/site-functions/_"+program, "completion fish >/etc/fish/completions/"+program+".fish"),
		ValidArgs: []string{"bash", "zsh", "fish"},
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 || cobra.OnlyValidArgs(cmd, args) != nil {
				return errors.New("write one of: completion bash, completion zsh, completion fish")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			switch args[0] {
			case "bash":
				return cmd.Root().GenBashCompletionV2(cmd.OutOrStdout(), true)
			case "zsh":
				return cmd.Root().GenZshCompletion(cmd.OutOrStdout())
			}
			var script strings.Builder
			err := cmd.Root().GenFishCompletion(&script, true)
			// A variable of fish has no dot in its name.
			fmt.Fprint(cmd.OutOrStdout(), strings.ReplaceAll(script.String(), "__"+program, "__kmodquery_ext"))
			return err
		},
	}
}

// singleDash matches a flag as osquery takes it as well.
var singleDash = regexp.MustCompile(`^-[a-z][a-z-]`)

// parse returns the settings of the command line, the environment and the configuration
// file. Its error is one line. If no action is to be run, c.printed is all there is to do.
func parse(p *platform, args []string) (*config, error) {
	c := &config{platform: p, commandLine: args}
	root := commands(c)
	doubled := []string{} // nil would be the arguments of the process
	for i, arg := range args {
		if arg == "--" {
			doubled = append(doubled, args[i:]...)
			break
		}
		if singleDash.MatchString(arg) {
			arg = "-" + arg
		}
		doubled = append(doubled, arg)
	}
	root.SetArgs(doubled)
	root.SetOut(&c.printed)
	root.SetErr(io.Discard) // errors are returned
	if err := root.Execute(); err != nil {
		return nil, err
	}
	return c, nil
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
	return fmt.Sprintf("%s %s\ncommit %s%s\nbuilt with %s for %s/%s\n", program, kmodquery.Version, commit, state, built, runtime.GOOS, runtime.GOARCH)
}

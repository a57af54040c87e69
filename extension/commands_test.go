package main

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kballard/go-shellquote"
	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

var golden = flag.Bool("golden", false, "rewrite the golden files")

// ran returns the status and the output of a command line.
func ran(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out strings.Builder
	lines := &reportLines{} // the sources report while statements run
	status = run(t.Context(), hostPlatform(), args, input(t, ""), &out, lines)
	return status, out.String(), strings.Join(lines.lines(), "\n")
}

// everyCommand calls f with each command of a root and its words after the program.
func everyCommand(root *cobra.Command, f func(cmd *cobra.Command, words []string), words ...string) {
	f(root, words)
	for _, sub := range root.Commands() {
		everyCommand(sub, f, append(slices.Clone(words), sub.Name())...)
	}
}

func hostCommands() *cobra.Command {
	root := commands(&config{platform: hostPlatform()})
	root.InitDefaultHelpCmd()
	return root
}

// redirection is the end of an example that writes a file.
var redirection = regexp.MustCompile(` >>?[a-z/._-]+$`)

// Each example can be pasted. record and detach change the host and watch does not end, so they
// are only parsed.
func TestExamplesWork(t *testing.T) {
	t.Setenv("KMODQUERY_STATE_DIR", t.TempDir())
	t.Setenv("KMODQUERY_CONFIG", configFile(t, ""))
	t.Chdir(t.TempDir())
	everyCommand(hostCommands(), func(cmd *cobra.Command, _ []string) {
		require.Equal(t, cmd.HasParent(), cmd.Example != "", cmd.Name())
		for example := range strings.Lines(cmd.Example) {
			words, err := shellquote.Split(redirection.ReplaceAllString(strings.TrimSpace(example), ""))
			require.NoError(t, err)
			require.Equal(t, program, words[0])
			if slices.Contains([]string{"record", "detach", "watch"}, cmd.Name()) {
				_, err := parse(hostPlatform(), words[1:])
				require.NoError(t, err, example)
				continue
			}
			status, stdout, stderr := ran(t, words[1:]...)
			if cmd.Name() != "doctor" { // its status depends on the host
				require.Zero(t, status, "%s: %s", example, stderr)
			}
			if _, file, ok := strings.Cut(strings.TrimSpace(example), " >"); ok && !filepath.IsAbs(file) {
				require.NoError(t, os.WriteFile(file, []byte(stdout), 0o600))
			}
			if !strings.Contains(example, "kernel_module_loads") {
				require.NotEmpty(t, stdout, example)
			}
		}
	})
}

func TestHelpOfOneCommand(t *testing.T) {
	everyCommand(hostCommands(), func(cmd *cobra.Command, words []string) {
		for _, args := range [][]string{append([]string{"help"}, words...), append(slices.Clone(words), "--help")} {
			status, stdout, stderr := ran(t, args...)
			require.Zero(t, status, stderr)
			require.Empty(t, stderr)
			require.Contains(t, stdout, "Usage:\n  "+strings.TrimSuffix(cmd.CommandPath()+" "+strings.Join(strings.Fields(cmd.Use)[1:], " "), " "))
			require.Contains(t, stdout, cmd.Example)
			require.Equal(t, cmd.Flags().Lookup("csv") != nil, strings.Contains(stdout, "  --format"), words)
			require.Equal(t, len(words) == 0 || words[0] == "doctor", strings.Contains(stdout, "  --socket"), words)
			require.Equal(t, cmd.Flags().Lookup("state-dir") != nil, strings.Contains(stdout, "  --state-dir"), words)
		}
	})
}

// The man pages come from the same definition as the help.
func TestManPagesAreAsPublished(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the sources of Linux are named")
	}
	made := t.TempDir()
	root := hostCommands()
	everyCommand(root, func(cmd *cobra.Command, _ []string) {
		if f := cmd.Flags().Lookup("state-dir"); f != nil {
			f.DefValue = "/var/lib/kmodquery" // of root
		}
	})
	root.DisableAutoGenTag = true // it has the date
	date := time.Date(2026, time.December, 1, 0, 0, 0, 0, time.UTC)
	require.NoError(t, doc.GenManTree(root, &doc.GenManHeader{Section: "8", Date: &date, Source: "kmodquery " + kmodquery.Version}, made))
	const published = "../packaging/man"
	if *golden {
		require.NoError(t, os.RemoveAll(published))
		require.NoError(t, os.CopyFS(published, os.DirFS(made)))
	}
	want, got := contents(t, published), contents(t, made)
	require.Equal(t, want, got, "run: make golden")
}

func TestShellsCompleteCommandsAndFlags(t *testing.T) {
	for line, want := range map[string]string{
		"qu":                 "query\trun SQL or a dot command without osquery\n:4\n",
		"query --form":       "--format\tquery: output",
		"query --format j":   "table\njson\ncsv\nline\n:4\n",
		"query --canary o":   "on\noff\n:4\n",
		"config ":            "check\tlook for mistakes in the configuration\nshow\t",
		"completion ":        "bash\nzsh\nfish\n:4\n",
		"record --socke":     ":4\n", // a flag of osquery
		"query --state-dir ": ":0\n", // a file
	} {
		status, stdout, stderr := ran(t, append([]string{"__complete"}, strings.Split(line, " ")...)...)
		require.Zero(t, status, stderr)
		require.True(t, strings.HasPrefix(stdout, want), "%s: %s", line, stdout)
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		_, script, _ := ran(t, "completion", shell)
		require.Contains(t, script, "kmodquery.ext")
		if _, err := exec.LookPath(shell); err != nil {
			t.Logf("there is no %s to check its script", shell)
			continue
		}
		check := exec.CommandContext(t.Context(), shell, "-n")
		check.Stdin = strings.NewReader(script)
		output, err := check.CombinedOutput()
		require.NoError(t, err, "%s: %s", shell, output)
	}
	_, script, _ := ran(t, "completion", "fish")
	require.NotRegexp(t, `set[^\n]* __kmodquery\.`, script, "no variable of fish has a dot in its name")
}

// contents returns the files of a folder.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	paths, err := filepath.Glob(dir + "/*")
	require.NoError(t, err)
	files := map[string]string{}
	for _, path := range paths {
		content, err := os.ReadFile(path)
		require.NoError(t, err)
		files[filepath.Base(path)] = string(content)
	}
	return files
}

func TestVersionNamesTheBuild(t *testing.T) {
	t.Setenv("KMODQUERY_CONFIG", "/none") // it does not read the configuration
	status, stdout, _ := ran(t, "version")
	require.Zero(t, status)
	require.Regexp(t, `^kmodquery\.ext [0-9.]+\ncommit ([0-9a-f]{40}|unknown).*\nbuilt with go1\.[^ ]+ for [a-z]+/[a-z0-9]+\n$`, stdout)
}

func TestConfigShowsWhereSettingsComeFrom(t *testing.T) {
	path := configFile(t, "# comment\nretention-age 30d\npoll 20s\nsources auto\npin-dir none\n")
	t.Setenv("KMODQUERY_POLL", "1m")
	t.Setenv("KMODQUERY_STATEDIR", "/typo")
	t.Setenv("KMODQUERY_VERSION", "1") // a container image may set it
	status, stdout, stderr := ran(t, "config", "show", "--config", path, "--reply-limit", "7")
	require.Zero(t, status, stderr)
	for _, want := range []string{
		`(?m)^retention-age +30d +` + path + `:2$`,
		`(?m)^poll +1m0s +environment variable KMODQUERY_POLL$`,
		`(?m)^sources +auto +` + path + `:4$`,
		`(?m)^pin-dir +none +` + path + `:5$`,
		`(?m)^reply-limit +7 +command line$`,
		`(?m)^canary +on +default$`,
		`(?m)^format +table +default$`,
	} {
		require.Regexp(t, want, stdout)
	}
	(&config{platform: hostPlatform()}).flagSet().VisitAll(func(f *pflag.Flag) {
		require.Regexp(t, "(?m)^"+f.Name+" ", stdout)
	})

	status, stdout, stderr = ran(t, "config", "check", "--config", path)
	require.Zero(t, status)
	require.Equal(t, "no mistake; 5 settings are set, the others have their defaults; configuration file: "+path+"\n", stdout)
	require.Equal(t, "kmodquery: environment variable KMODQUERY_STATEDIR is no setting; the nearest is KMODQUERY_STATE_DIR\n"+
		"kmodquery: environment variable KMODQUERY_VERSION is no setting", strings.TrimSpace(stderr))

	require.NoError(t, os.WriteFile(path, []byte("poll 1\n"), 0o600))
	t.Setenv("KMODQUERY_POLL", "")
	status, stdout, stderr = ran(t, "config", "check", "--config", path)
	require.Equal(t, exitUsage, status)
	require.Empty(t, stdout)
	require.Contains(t, stderr, path+":1: poll 1: write a time with its unit")

	// Other commands name only what is probably mistyped.
	t.Setenv("KMODQUERY_STATE_DIR", t.TempDir())
	_, _, stderr = ran(t, "query", "--config", "", "SELECT 1")
	require.Contains(t, stderr, "KMODQUERY_STATEDIR is no setting; the nearest is KMODQUERY_STATE_DIR")
	require.NotContains(t, stderr, "KMODQUERY_VERSION")
}

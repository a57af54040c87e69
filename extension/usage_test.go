package main

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/kballard/go-shellquote"
	"github.com/stretchr/testify/require"
)

// ran returns the status and the output of a command line.
func ran(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out strings.Builder
	lines := &reportLines{} // the sources report while statements run
	status = run(t.Context(), hostPlatform(), args, input(t, ""), &out, lines)
	return status, out.String(), strings.Join(lines.lines(), "\n")
}

// Each example can be pasted. record and detach change the host, so they are only parsed.
func TestExamplesWork(t *testing.T) {
	t.Setenv("KMODQUERY_STATE_DIR", t.TempDir())
	t.Setenv("KMODQUERY_CONFIG", configFile(t, ""))
	for _, c := range commands {
		for _, example := range c.examples {
			line, _, _ := strings.Cut(example, " >")
			if strings.Contains(line, "time >") || strings.Contains(line, "utc(") {
				line = example // the sign is within the SQL
			}
			words, err := shellquote.Split(line)
			require.NoError(t, err)
			require.Equal(t, "kmodquery.ext", words[0])
			if c.name == "record" || c.name == "detach" {
				_, err := parse(hostPlatform(), words[1:])
				require.NoError(t, err, example)
				continue
			}
			status, stdout, stderr := ran(t, words[1:]...)
			require.Zero(t, status, "%s: %s", example, stderr)
			if !strings.Contains(line, "kernel_module_loads") {
				require.NotEmpty(t, stdout, example)
			}
		}
	}
}

func TestHelpOfOneCommand(t *testing.T) {
	for _, c := range commands[:6] {
		for _, args := range [][]string{{"help", c.name}, {c.name, "--help"}} {
			status, stdout, stderr := ran(t, args...)
			require.Zero(t, status, stderr)
			if c.name == "help" { // it explains all
				require.Contains(t, stdout, "kmodquery.ext --socket PATH")
				continue
			}
			require.Contains(t, stdout, "kmodquery.ext "+c.usage()+"\n")
			require.Contains(t, stdout, "Examples:\n\n  kmodquery.ext "+c.name)
			require.Equal(t, c.name == "query", strings.Contains(stdout, "  -format"), c.name)
			require.NotContains(t, stdout, "  -socket")
			require.Contains(t, stdout, "  -state-dir")
		}
	}
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
	(&config{platform: hostPlatform()}).flagSet().VisitAll(func(f *flag.Flag) {
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

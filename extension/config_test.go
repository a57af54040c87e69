package main

import (
	"context"
	"io"
	"log"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	osquery "github.com/osquery/osquery-go"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/collectors"
	"github.com/kmodquery/kmodquery/extension/shell"
	"github.com/kmodquery/kmodquery/tables"
	"github.com/kmodquery/kmodquery/tables/sqlite"
)

func TestParse(t *testing.T) {
	host := hostPlatform()
	defaults := config{
		platform:        host,
		configFile:      defaultConfigFile,
		stateDir:        defaultStateDir(),
		retentionAge:    sqlite.DefaultMaxAge,
		retentionEvents: sqlite.DefaultMaxEvents,
		retentionDenied: sqlite.DefaultMaxUnprivileged,
		poll:            collectors.DefaultPoll,
		pinDir:          defaultPinDir,
		rulesDir:        defaultRulesDir,
		expectDir:       defaultExpectDir,
		eslogger:        defaultEslogger,
		imageLimit:      host.maxImageLimit,
		replyLimit:      tables.DefaultReplyBytes,
		queryTimeout:    tables.DefaultTimeout,
		timeout:         3,
		interval:        3,
		format:          shell.Table,
		reportSince:     7 * 24 * time.Hour,
	}
	tests := []struct {
		name string
		args []string
		want func(*config)
	}{
		// osqueryd 5.23 starts an extension with these, --verbose first.
		{"serve", []string{"--verbose", "--socket", "/run/osquery.em", "--timeout", "5", "--interval", "7"}, func(c *config) {
			c.verbose, c.socket, c.timeout, c.interval = true, "/run/osquery.em", 5, 7
		}},
		{"query", []string{"query"}, func(c *config) { c.command = "query" }},
		{"query with SQL", []string{"query", "--format=CSV", "SELECT 1"}, func(c *config) {
			c.command, c.args, c.format = "query", []string{"SELECT 1"}, shell.CSV
		}},
		{"flags after the SQL", []string{"query", "SELECT 1", "--format", "csv", "--verbose"}, func(c *config) {
			c.command, c.args, c.format, c.verbose = "query", []string{"SELECT 1"}, shell.CSV, true
		}},
		{"format of osqueryi before", []string{"query", "--json", "SELECT 1"}, func(c *config) {
			c.command, c.args, c.format = "query", []string{"SELECT 1"}, shell.JSON
		}},
		{"format of osqueryi after", []string{"query", "SELECT 1", "-line"}, func(c *config) {
			c.command, c.args, c.format = "query", []string{"SELECT 1"}, shell.Line
		}},
		{"pretty", []string{"query", "--csv", "--pretty"}, func(c *config) { c.command = "query" }},
		{"flags before the command", []string{"--verbose", "--state-dir", "/s", "query"}, func(c *config) { c.command, c.stateDir, c.verbose = "query", "/s", true }},
		{"one dash, as osquery takes it", []string{"-verbose", "-socket=/run/osquery.em", "-timeout", "5"}, func(c *config) {
			c.verbose, c.socket, c.timeout = true, "/run/osquery.em", 5
		}},
		{"query with SQL that begins with a comment", []string{"query", "--", "--none\nSELECT 1"}, func(c *config) {
			c.command, c.args = "query", []string{"--none\nSELECT 1"}
		}},
		{"canary", []string{"query", "--canary", "off"}, func(c *config) { c.command, c.isWithoutCanary = "query", true }},
		{"bounds", []string{"query", "--state-dir", "/s", "--retention-age", "0", "--retention-events", "0", "--retention-denied", "5", "--image-limit", "0", "--reply-limit", "1", "--query-timeout", "90s"}, func(c *config) {
			c.command, c.stateDir, c.retentionAge, c.retentionEvents, c.retentionDenied, c.imageLimit, c.replyLimit, c.queryTimeout = "query", "/s", 0, 0, 5, 0, 1, 90*time.Second
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			want := defaults
			test.want(&want)
			got, err := parse(host, test.args)
			require.NoError(t, err)
			require.NotNil(t, got.run)
			require.NotEmpty(t, got.all)
			got.run, got.all = nil, nil
			want.commandLine, want.args = test.args, append([]string{}, want.args...)
			require.Equal(t, &want, got)
		})
	}
}

func TestParseRefuses(t *testing.T) {
	const invalid = "invalid argument "
	long := "/" + strings.Repeat("s", osquery.MaxSocketPathCharacters)
	tests := []struct {
		args []string
		want string
	}{
		{nil, "--socket is missing: osquery passes it when it starts an extension; to query without osquery, run: kmodquery.ext query"},
		{[]string{"serve"}, `unknown command "serve"`},
		{[]string{"--colour"}, "unknown flag: --colour"},
		{[]string{"query", "--formt", "csv"}, "unknown flag: --formt; the nearest is format"},
		{[]string{"qurey"}, `unknown command "qurey"; did you mean query?`},
		{[]string{"help", "qurey"}, `unknown command "qurey"; did you mean query?`},
		{[]string{"config"}, "write: config show, or: config check"},
		{[]string{"config", "check", "show"}, `check takes flags only, not "show"`},
		{[]string{"--socket", long}, "--socket has 98 characters; osquery's sockets have at most 97"},
		{[]string{"--socket", "s", "--timeout", "0"}, invalid + `"0" for "--timeout" flag: write a number of 1 or more`},
		{[]string{"--socket", "s", "--interval", "-1"}, invalid + `"-1" for "--interval" flag: write a number of 1 or more`},
		// A time in nanoseconds must fit into 64 bits.
		{[]string{"--socket", "s", "--timeout", "9223372037"}, invalid + `"9223372037" for "--timeout" flag: write a number of 2147483647 or less`},
		{[]string{"--socket", "s", "--interval", "9223372037"}, invalid + `"9223372037" for "--interval" flag: write a number of 2147483647 or less`},
		{[]string{"query", "SELECT", "1"}, "query takes one SQL text: put it in quotes"},
		{[]string{"query", "SELECT 1", "--format"}, "flag needs an argument: --format"},
		{[]string{"query", "SELECT 1", "--", "--json"}, "query takes one SQL text: put it in quotes"},
		{[]string{"query", "--reply-limit", "-1"}, invalid + `"-1" for "--reply-limit" flag: write a number of 1 or more`},
		{[]string{"query", "--image-limit", "-1"}, invalid + `"-1" for "--image-limit" flag: write a number of 0 or more`},
		{[]string{"query", "--image-limit", "33554433"}, invalid + `"33554433" for "--image-limit" flag: write a number of 33554432 or less`},
		{[]string{"query", "--query-timeout", "0"}, invalid + `"0" for "--query-timeout" flag: write a time of 1ms or more`},
		{[]string{"query", "--state-dir", ""}, "--state-dir takes a folder"},
		{[]string{"detach", "/sys/fs/bpf/other"}, `detach takes flags only, not "/sys/fs/bpf/other"`},
		{[]string{"query", "--retention-events", "-1"}, invalid + `"-1" for "--retention-events" flag: write a number of 0 or more`},
		{[]string{"query", "--retention-denied", "-1"}, invalid + `"-1" for "--retention-denied" flag: write a number of 0 or more`},
	}
	for _, test := range tests {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			_, err := parse(hostPlatform(), test.args)
			require.EqualError(t, err, test.want)
		})
	}
	for _, args := range [][]string{{"--help"}, {"-h"}, {"query", "--help"}, {"help"}, {"help", "config"}} {
		c, err := parse(hostPlatform(), args)
		require.NoError(t, err)
		require.Nil(t, c.run)
		require.Contains(t, c.printed.String(), "Usage:\n  kmodquery.ext ")
	}
	_, err := parse(hostPlatform(), []string{"--socket", long[1:]})
	require.NoError(t, err, "97 characters are allowed")
}

func TestFlagOverridesEnvironmentOverridesFile(t *testing.T) {
	path := configFile(t, "# a comment\nstate-dir /file\nquery-timeout\t1s # another\r\n  interval 9\t# a third\n\nverbose\n")
	t.Setenv("KMODQUERY_STATE_DIR", "/environment")
	t.Setenv("KMODQUERY_QUERY_TIMEOUT", "2s")
	t.Setenv("KMODQUERY_TIMEOUT", "")      // counts as unset
	t.Setenv("KMODQUERY_VERSION", "1.2.3") // a container image may set it
	c, err := parse(hostPlatform(), []string{"--config", path, "--socket", "s", "--state-dir", "/flag"})
	require.NoError(t, err)
	require.Equal(t, "/flag", c.stateDir)
	require.Equal(t, 2*time.Second, c.queryTimeout)
	require.EqualValues(t, 9, c.interval)
	require.EqualValues(t, 3, c.timeout)
	require.True(t, c.verbose)
}

func TestConfigurationFileMistakes(t *testing.T) {
	const unit = "write a time with its unit, d, h, m or s, such as 7d or 10s"
	for content, want := range map[string]string{
		"colour blue":                `:1: there is no setting "colour"`,
		"\n# x\nretention_age 1h":    `:3: there is no setting "retention_age"; the nearest is retention-age`,
		"pol 1s":                     `:1: there is no setting "pol"; the nearest is poll`,
		"[main]":                     `:1: there is no setting "[main]"`,
		"config /etc/other":          `:1: there is no setting "config"`,
		"query-timeout 3":            ":1: query-timeout 3: " + unit,
		"retention-age 90 days":      ":1: retention-age 90 days: " + unit,
		"reply-limit 0":              ":1: reply-limit 0: write a number of 1 or more",
		"image-limit 32M":            ":1: image-limit 32M: write a whole number without a unit, such as 1000000",
		"poll":                       ":1: poll has no value; write: poll 10s",
		"sources":                    ":1: sources has no value; write: sources VALUE",
		"poll =":                     ":1: poll has no value; write: poll 10s",
		"verbose\nformat x":          `:2: format x: unknown format "x"; choose one of table, json, csv, line`,
		"poll = 20s":                 ":1: there is only a space between a setting and its value; write: poll 20s",
		"poll=20s":                   ":1: there is only a space between a setting and its value; write: poll 20s",
		"state-dir: '/a b' # x":      ":1: there is only a space between a setting and its value; write: state-dir /a b",
		`state-dir "/a"`:             ":1: a value has no quotes; write: state-dir /a",
		"--poll 20s":                 ":1: a setting has no dashes before its name; write: poll 20s",
		"poll 20s\nverbose\npoll 3s": ":3: poll is set in line 1 already; remove one of the two",
		"canary no":                  ":1: canary no: write on or off",
		"rules-dir rules.d":          ":1: rules-dir begins at the root, and rules.d does not; write: rules-dir /etc/kmodquery/rules.d",
		"pin-dir kmodquery":          ":1: pin-dir begins at the root, and kmodquery does not; write: pin-dir /sys/fs/bpf/kmodquery",
	} {
		path := configFile(t, content)
		_, err := parse(hostPlatform(), []string{"query", "--config", path})
		require.EqualError(t, err, path+want)
	}
	// osquery would restart an extension that ends, so it serves what is valid.
	path := configFile(t, "pol 1s\npoll 1ms\nstate-dir /a\n")
	c, err := parse(hostPlatform(), []string{"--socket", "s", "--config", path})
	require.NoError(t, err)
	require.EqualError(t, c.mistake, path+`:1: there is no setting "pol"; the nearest is poll`)
	require.Equal(t, "/a", c.stateDir)
	require.Equal(t, collectors.DefaultPoll, c.poll)
	c, err = parse(hostPlatform(), []string{"query", "--config", configFile(t, "pin-dir none\nrules-dir none\nstate-dir /a=\"b\":c")})
	require.NoError(t, err)
	require.Empty(t, c.pinDir)
	require.Empty(t, c.rulesDir)
	require.Equal(t, `/a="b":c`, c.stateDir)
	missing := filepath.Join(t.TempDir(), "missing.conf")
	_, err = parse(hostPlatform(), []string{"query", "--config", missing})
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorContains(t, err, missing)
	t.Setenv("KMODQUERY_CONFIG", missing)
	_, err = parse(hostPlatform(), []string{"query"})
	require.ErrorIs(t, err, os.ErrNotExist)
}

// osquery would restart an extension that ends for a variable, as for a line of the file.
func TestEnvironmentMistakesAreHandledAsThoseOfTheFile(t *testing.T) {
	const want = "environment variable KMODQUERY_POLL=1ms: write a time of 1s or more"
	t.Setenv("KMODQUERY_POLL", "1ms")
	t.Setenv("KMODQUERY_QUERY_TIMEOUT", "2s")
	file := configFile(t, "pol 1s\npoll 3s\nquery-timeout 9s\n")
	c, err := parse(hostPlatform(), []string{"--socket", "s", "--config", file})
	require.NoError(t, err)
	require.EqualError(t, c.mistake, want)
	require.Equal(t, 2*time.Second, c.queryTimeout)
	for _, command := range []string{"query", "detach", "record"} {
		_, err = parse(hostPlatform(), []string{command, "--config", file})
		require.EqualError(t, err, want)
	}
	_, err = parse(aMac(t.TempDir()), []string{"record", "--config", file})
	require.NoError(t, err, "launchd restarts the service always")
	c, err = parse(hostPlatform(), []string{"query", "--poll", "5s"})
	require.NoError(t, err, "the flag overrides the variable")
	require.Equal(t, 5*time.Second, c.poll)
}

func TestHelpExplainsEveryCommandAndFlag(t *testing.T) {
	c, err := parse(hostPlatform(), []string{"--help"})
	require.NoError(t, err)
	for _, command := range commands(c).Commands() {
		require.Regexp(t, "(?m)^  "+command.Name()+" +"+regexp.QuoteMeta(command.Short)+"$", c.printed.String())
	}
	(&config{platform: hostPlatform()}).flagSet().VisitAll(func(f *pflag.Flag) {
		require.Equal(t, f.Name != "format", strings.Contains(c.printed.String(), "  --"+f.Name), f.Name) // it is a flag of some commands
		require.NotEmpty(t, f.Usage, f.Name)
	})
}

// An extension with a mistake in its configuration file shows it for each source.
func TestAMistakeIsShownInTheSensors(t *testing.T) {
	p := hostPlatform()
	p.hasModules = func() bool { return true }
	c, err := parse(p, []string{"--socket", "s", "--state-dir", t.TempDir(), "--config", configFile(t, "polls 1s\n")})
	require.NoError(t, err)
	a, err := open(t.Context(), c, log.New(io.Discard, "", 0))
	require.NoError(t, err)
	defer func() { require.NoError(t, a.Close()) }()
	sensors := a.recorder.Sensors(t.Context())
	require.Len(t, sensors, len(p.sourceNames))
	for i, sensor := range sensors {
		require.Equal(t, p.sourceNames[i], sensor.Source)
		require.Equal(t, kmodquery.StateFailed, sensor.State)
		require.Equal(t, c.mistake.Error()+"; osquery then starts this extension again", sensor.Reason)
	}
}

// A process keeps its environment, so it does not wait for the correction.
func TestAMistakeInTheEnvironmentNeedsARestart(t *testing.T) {
	t.Setenv("KMODQUERY_POLL", "1ms")
	for _, test := range []struct {
		args   []string
		remedy string
	}{
		{[]string{"--socket", "s"}, "; correct it and restart osquery"},
		{[]string{"record"}, "; correct it and load this service again"},
	} {
		c, err := parse(aMac(t.TempDir()), append(test.args, "--state-dir", t.TempDir(), "--config", configFile(t, "polls 1s\n")))
		require.NoError(t, err)
		sensors := mistakenOptions(c, &sqlite.Store{}).Sources
		require.NotEmpty(t, sensors)
		for _, sensor := range sensors {
			require.Equal(t, c.mistake.Error()+test.remedy, sensor.Sensor().Reason)
		}
	}
}

// A corrected service cannot record while an extension with the mistake holds the store.
func TestAnExtensionEndsWhenItsMistakeIsCorrected(t *testing.T) {
	host := startHost(t)
	const overridden = "query-timeout 5\n" // a mistake where no flag overrides it
	file := configFile(t, "polls 1s\n"+overridden)
	c, err := parse(hostPlatform(), []string{"--socket", host.Socket(), "--interval", "1", "--state-dir", t.TempDir(), "--config", file, "--query-timeout", "1m"})
	require.NoError(t, err)
	report, lines := reporting()
	_, ended := inBackground(t, func(ctx context.Context) error { return serve(ctx, c, report) })
	require.NoError(t, host.WaitForTable(t.Context(), "kernel_module_sensors"))
	await(t, host, "SELECT DISTINCT state, role FROM kernel_module_sensors", map[string]string{"state": "failed", "role": "recorder"})
	require.NoError(t, os.WriteFile(file, []byte("poll 1s\n"+overridden), 0o600))
	require.NoError(t, awaitEnd(t, ended))
	require.Empty(t, host.Extensions())
	free, err := sqlite.IsFree(c.stateDir)
	require.NoError(t, err)
	require.True(t, free)
	require.Contains(t, strings.Join(lines.lines(), "\n"), "the configuration file has no mistake any more; ending, so that osquery starts this extension again")
}

// launchd starts the service again whatever its exit status is, so the service shows a mistake
// until it is corrected. systemd knows a status after which it does not.
func TestAMistakenServiceOfMacOSWaitsForTheCorrection(t *testing.T) {
	file := configFile(t, "polls 1s\n")
	dir := shortDir(t)
	p := aMac(t.TempDir())
	c, err := parse(p, []string{"record", "--state-dir", dir, "--config", file})
	require.NoError(t, err)
	report, lines := reporting()
	_, ended := inBackground(t, func(ctx context.Context) error { return record(ctx, c, report) })
	var stdout, stderr strings.Builder
	const sql = "SELECT source, state, role, reason FROM kernel_module_sensors"
	require.Eventually(t, func() bool {
		if _, err := os.Stat(filepath.Join(dir, recorderSocket)); err != nil {
			return false
		}
		stdout.Reset()
		return run(t.Context(), p, []string{"query", "--state-dir", dir, "--format", "csv", sql}, input(t, ""), &stdout, &stderr) == 0 &&
			strings.Contains(stdout.String(), "polls")
	}, time.Minute, 10*time.Millisecond)
	reason := strings.ReplaceAll(c.mistake.Error()+"; launchd then starts this service again", `"`, `""`)
	require.Equal(t, "source,state,role,reason\n"+
		`endpoint_security,failed,reader,"`+reason+"\"\n"+
		`unified_log,failed,reader,"`+reason+"\"\n", stdout.String())
	require.NoError(t, os.WriteFile(file, []byte("poll 1s\n"), 0o600))
	require.NoError(t, <-ended)
	require.Contains(t, strings.Join(lines.lines(), "\n"), "the configuration file has no mistake any more; ending, so that launchd starts this service again")

	p.restartsAlways = false
	require.NoError(t, os.WriteFile(file, []byte("polls 1s\n"), 0o600))
	require.Equal(t, exitUsage, run(t.Context(), p, []string{"record", "--state-dir", dir, "--config", file}, input(t, ""), &stdout, &stderr))
}

package main

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/kballard/go-shellquote"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"
)

// The sample configuration file has every setting with its default, except the flags of
// osquery and of single commands.
func TestSampleConfiguration(t *testing.T) {
	sample, err := os.ReadFile("../packaging/kmodquery.conf")
	require.NoError(t, err)
	elsewhere := []string{"config", "socket", "timeout", "interval", "verbose", "format"}
	host := hostPlatform()
	(&config{platform: host}).flagSet().VisitAll(func(f *pflag.Flag) {
		require.NotEqual(t, slices.Contains(elsewhere, f.Name), strings.Contains(string(sample), "\n#"+f.Name+" "), f.Name)
	})

	// The sample is valid as it is, and with every setting uncommented.
	for _, content := range []string{string(sample), uncomment(string(sample))} {
		c, err := parse(host, []string{"query", "--config", configFile(t, content)})
		require.NoError(t, err)
		defaults, err := parse(host, []string{"query", "--config", ""})
		require.NoError(t, err)
		c.commandLine, c.configFile, c.stateDir = defaults.commandLine, defaults.configFile, defaults.stateDir
		c.run, c.all, defaults.run, defaults.all = nil, nil, nil, nil
		require.Equal(t, defaults, c)
	}
}

// systemd restarts the service always, except after a mistake in the configuration.
func TestUnitIsNotRestartedAfterAMistake(t *testing.T) {
	unit, err := os.ReadFile("../packaging/systemd/kmodquery.service")
	require.NoError(t, err)
	require.Contains(t, string(unit), fmt.Sprintf("\nRestart=always\nRestartPreventExitStatus=%d\n", exitUsage))
	require.NotContains(t, []int{0, exitFailed, 2}, exitUsage, "a Go program that panics ends with 2")
}

// The alerts are off by default, and their unit neither records nor has a right to.
func TestUnitOfAlerts(t *testing.T) {
	text, err := os.ReadFile("../packaging/systemd/kmodquery-watch.service")
	require.NoError(t, err)
	unit := string(text)
	require.Contains(t, unit, fmt.Sprintf("\nRestart=always\nRestartPreventExitStatus=%d\n", exitUsage))
	require.Contains(t, unit, "\nCapabilityBoundingSet=\n")
	commands := regexp.MustCompile(`(?m)^#? *ExecStart=(/.*)$`).FindAllStringSubmatch(unit, -1)
	require.Len(t, commands, 2)
	for _, command := range commands {
		words, err := shellquote.Split(command[1])
		require.NoError(t, err)
		c, err := parse(hostPlatform(), words[1:])
		require.NoError(t, err)
		require.Equal(t, "watch", c.command)
		require.True(t, c.watch.isReader)
		require.Equal(t, "${STATE_DIRECTORY}/position", c.watch.position)
	}
}

// uncomment removes the comment mark of settings, which have no space after it.
func uncomment(content string) string {
	lines := strings.Split(content, "\n")
	for i, line := range lines {
		if len(line) > 1 && line[0] == '#' && line[1] != ' ' {
			lines[i] = line[1:]
		}
	}
	return strings.Join(lines, "\n")
}

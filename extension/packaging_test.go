package main

import (
	"flag"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The sample of a configuration file has every setting that is not osquery's or
// of a command, with its default.
func TestSampleConfiguration(t *testing.T) {
	sample, err := os.ReadFile("../packaging/kmodquery.conf")
	require.NoError(t, err)
	elsewhere := []string{"config", "socket", "timeout", "interval", "verbose", "format"}
	host := hostPlatform()
	(&config{platform: host}).flagSet().VisitAll(func(f *flag.Flag) {
		require.NotEqual(t, slices.Contains(elsewhere, f.Name), strings.Contains(string(sample), "\n#"+f.Name+" "), f.Name)
	})

	// It is read as it is, and with every line in force.
	for _, content := range []string{string(sample), uncomment(string(sample))} {
		c, err := parse(host, []string{"query", "--config", configFile(t, content)})
		require.NoError(t, err)
		defaults, err := parse(host, []string{"query", "--config", ""})
		require.NoError(t, err)
		c.configFile, c.stateDir = defaults.configFile, defaults.stateDir
		require.Equal(t, defaults, c)
	}
}

// uncomment puts the settings in force, which have no space after the mark.
func uncomment(content string) string {
	lines := strings.Split(content, "\n")
	for i, line := range lines {
		if len(line) > 1 && line[0] == '#' && line[1] != ' ' {
			lines[i] = line[1:]
		}
	}
	return strings.Join(lines, "\n")
}

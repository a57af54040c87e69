package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/pflag"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/internal/human"
)

// A setting is the value of a flag and where it comes from.
type setting struct {
	name, value, origin string
}

// settings returns all settings with their origins, but for those that are the default.
func (c *config) settings(flags *pflag.FlagSet, origins map[string]string) (all []setting) {
	// These flags do not show their values.
	values := map[string]string{
		"canary": "on", "format": string(c.format), "pin-dir": cmp.Or(c.pinDir, noPinDir), "rules-dir": cmp.Or(c.rulesDir, noFolder), "expect-dir": cmp.Or(c.expectDir, noFolder),
		"sources": cmp.Or(strings.Join(c.sources, ","), "auto"),
	}
	if c.isWithoutCanary {
		values["canary"] = "off"
	}
	flags.VisitAll(func(f *pflag.Flag) {
		value, ok := values[f.Name]
		if !ok {
			value = f.Value.String()
		}
		all = append(all, setting{f.Name, value, cmp.Or(origins[f.Name], "default")})
	})
	return all
}

// unknownVariables describes the environment variables that look like settings and are
// none.
func unknownVariables(flags *pflag.FlagSet, environment []string) (all []string) {
	var names []string
	flags.VisitAll(func(f *pflag.Flag) { names = append(names, variable(f.Name)) })
	for _, pair := range environment {
		name, value, _ := strings.Cut(pair, "=")
		if value == "" || !strings.HasPrefix(name, envPrefix) || slices.Contains(names, name) {
			continue
		}
		nearest := human.Nearest(strings.TrimPrefix(name, envPrefix), trimPrefixes(names))
		if nearest != "" {
			nearest = "; the nearest is " + envPrefix + nearest
		}
		all = append(all, fmt.Sprintf("environment variable %s is no setting%s", name, nearest))
	}
	slices.Sort(all)
	return all
}

func trimPrefixes(names []string) []string {
	trimmed := make([]string, len(names))
	for i, name := range names {
		trimmed[i] = strings.TrimPrefix(name, envPrefix)
	}
	return trimmed
}

// showConfig prints each setting and where it comes from.
func showConfig(_ context.Context, c *config, f files) error {
	out := tabwriter.NewWriter(f.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(out, "SETTING\tVALUE\tFROM")
	for _, s := range c.all {
		fmt.Fprintf(out, "%s\t%s\t%s\n", s.name, kmodquery.Printable(s.value), kmodquery.Printable(s.origin))
	}
	return out.Flush()
}

// checkConfig says where the settings come from. Mistakes have ended the command before.
func checkConfig(_ context.Context, c *config, f files) error {
	if mistakes := openRules(c, nil).Mistakes(); len(mistakes) > 0 {
		return errors.Join(mistakes...)
	}
	file := c.configFile
	if _, err := os.Stat(file); file == "" {
		file = "none"
	} else if errors.Is(err, fs.ErrNotExist) {
		file += ", which does not exist"
	}
	set := 0
	for _, s := range c.all {
		if s.origin != "default" {
			set++
		}
	}
	_, err := fmt.Fprintf(f.stdout, "no mistake; %d settings are set, the others have their defaults; configuration file: %s\n", set, kmodquery.Printable(file))
	return err
}

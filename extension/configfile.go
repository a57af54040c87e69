package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
	"unicode"

	"github.com/spf13/pflag"

	"github.com/kmodquery/kmodquery/internal/human"
	"github.com/kmodquery/kmodquery/internal/trusted"
)

// maxConfigFile bounds a configuration file, in bytes.
const maxConfigFile = 64 << 10

// parseConfigFile sets each flag that has no origin yet and has a valid line in the configuration
// file. It returns the first mistake, with the file, the line and what to write there.
func parseConfigFile(path string, flags *pflag.FlagSet, origins map[string]string) (mistake error) {
	content, err := readConfigFile(path)
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	lines := map[string]int{} // by setting
	for i, line := range strings.Split(string(content), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		name, value, err := parseSetting(line, flags)
		switch first := lines[name]; {
		case err != nil:
			name = "" // lines without a setting are not counted
		case first != 0:
			err = fmt.Errorf("%s is set in line %d already; remove one of the two", name, first)
		case origins[name] == "":
			if failure := flags.Lookup(name).Value.Set(value); failure != nil {
				err = fmt.Errorf("%s %s: %w", name, value, failure)
			} else {
				origins[name] = fmt.Sprintf("%s:%d", path, i+1)
			}
		}
		if err != nil && mistake == nil {
			mistake = fmt.Errorf("%s:%d: %w", path, i+1, err)
		}
		lines[name] = i + 1
	}
	return mistake
}

// parseSetting returns the name and the value of a line.
func parseSetting(line string, flags *pflag.FlagSet) (name, value string, err error) {
	name, value = line, ""
	if i := strings.IndexFunc(line, func(r rune) bool { return unicode.IsSpace(r) || r == '=' || r == ':' }); i >= 0 {
		name, value = line[:i], strings.TrimSpace(line[i:])
	}
	for _, comment := range []string{" #", "\t#"} {
		value, _, _ = strings.Cut(value, comment)
	}
	plainName := strings.TrimLeft(name, "-")
	value = strings.TrimSpace(value)
	plain := strings.Trim(strings.TrimLeft(value, "=: \t"), "\"'`")
	setting := flags.Lookup(plainName)
	if setting == nil || plainName == "config" {
		return "", "", fmt.Errorf("there is no setting %q%s", plainName, nearest(plainName, flags))
	}
	if setting.NoOptDefVal != "" && value == "" {
		value, plain = "true", "true"
	}
	isFolder := name == "state-dir" || name == "pin-dir" && plain != noPinDir || (name == "rules-dir" || name == "expect-dir") && plain != noFolder
	switch {
	case plain == "":
		return "", "", fmt.Errorf("%s has no value; write: %[1]s %s", plainName, cmp.Or(setting.DefValue, "VALUE"))
	case name != plainName:
		return "", "", fmt.Errorf("a setting has no dashes before its name; write: %s %s", plainName, plain)
	case strings.HasPrefix(value, "=") || strings.HasPrefix(value, ":"):
		return "", "", fmt.Errorf("there is only a space between a setting and its value; write: %s %s", name, plain)
	case plain != value:
		return "", "", fmt.Errorf("a value has no quotes; write: %s %s", name, plain)
	case isFolder && !filepath.IsAbs(value):
		return "", "", fmt.Errorf("%s begins at the root, and %s does not; write: %[1]s %[3]s", name, value, setting.DefValue)
	}
	return name, value, nil
}

// nearest names the setting that a mistyped name is most like, if there is one.
func nearest(name string, flags *pflag.FlagSet) string {
	var names []string
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Name != "config" {
			names = append(names, f.Name)
		}
	})
	if best := human.Nearest(name, names); best != "" {
		return "; the nearest is " + best
	}
	return ""
}

// readConfigFile returns the content of the configuration file. It follows links, and
// refuses a file that users other than root and the running one can write. It returns
// nil if the default file does not exist, and if path is empty.
func readConfigFile(path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	file, err := trusted.Open(path)
	if errors.Is(err, fs.ErrNotExist) && path == defaultConfigFile {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxConfigFile+1))
	if err != nil {
		return nil, err
	}
	if len(content) > maxConfigFile {
		return nil, fmt.Errorf("%s has more than %d bytes; choose another one with --config", file.Name(), maxConfigFile)
	}
	return content, nil
}

// trustedProgram returns the path without links of a program that only root and the running
// user can change.
func trustedProgram(path string) (string, error) {
	file, err := trusted.Open(path)
	if err != nil {
		return "", fmt.Errorf("check the program of the setting eslogger: %w", err)
	}
	defer file.Close()
	return file.Name(), nil
}

package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"unicode"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery/internal/human"
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
	isFolder := name == "state-dir" || name == "pin-dir" && plain != noPinDir
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
	file, err := openTrusted(path)
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
	file, err := openTrusted(path)
	if err != nil {
		return "", fmt.Errorf("check the program of the setting eslogger: %w", err)
	}
	defer file.Close()
	return file.Name(), nil
}

// openTrusted opens the file that path leads to, and checks the open file.
func openTrusted(path string) (*os.File, error) {
	resolved, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, err
	}
	if resolved, err = filepath.Abs(resolved); err != nil {
		return nil, err
	}
	// O_NONBLOCK: open(2) of a named pipe would block.
	file, err := os.OpenFile(resolved, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if err := checkTrusted(file); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// checkTrusted returns an error if another user can change or replace an open file,
// or a folder in its path. The file must have been opened by a path without links. The
// folders are checked last: if they are safe, the file cannot have been replaced
// between open and check.
func checkTrusted(file *os.File) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file; choose another one", file.Name())
	}
	if err := checkWriters(file.Name(), info, false); err != nil {
		return err
	}
	for dir, nearest := filepath.Dir(file.Name()), true; ; dir, nearest = filepath.Dir(dir), false {
		info, err := os.Lstat(dir)
		if err != nil {
			return err
		}
		// In a sticky folder, such as /tmp, users cannot replace the folders of
		// others.
		isSticky := !nearest && info.Mode()&fs.ModeSticky != 0
		if err := checkWriters(dir, info, isSticky); err != nil {
			return err
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}

// checkWriters returns an error if a file or folder belongs to a user other than root and
// the running one, or unless isSticky, if others can write it.
func checkWriters(path string, info fs.FileInfo, isSticky bool) error {
	owner := int(info.Sys().(*syscall.Stat_t).Uid)
	if owner != 0 && owner != os.Geteuid() {
		return fmt.Errorf("%s belongs to user %d, who could change it; run chown root %[1]s", path, owner)
	}
	if mode := info.Mode().Perm(); mode&0o022 != 0 && !isSticky {
		return fmt.Errorf("%s can be written by others (mode %#o), who could change it; run chmod go-w %[1]s", path, mode)
	}
	return nil
}

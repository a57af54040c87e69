package doctor

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
)

// An Osquery is the osquery that a host runs or has installed.
type Osquery struct {
	Root Root
	// Programs are where osqueryd may be installed, and Folder is where its files are.
	Programs []string
	Folder   string
	// Processes returns the command lines of the processes that run a program of this
	// name. It is nil if they cannot be found out.
	Processes func(name string) ([]Process, error)
}

// A Process is a running program.
type Process struct {
	PID  int
	Args []string
}

// osqueryPrograms are what runs osquery: its daemon, and Fleet's and Kolide's agents, which
// start it.
var osqueryPrograms = []string{"osqueryd", "orbit", "launcher"}

// Presence checks whether osquery is installed and runs.
func (o Osquery) Presence() []Result {
	var installed string
	for _, path := range o.Programs {
		if _, err := os.Stat(o.Root.path(path)); err == nil {
			installed = path
			break
		}
	}
	process, isKnown := o.process()
	switch {
	case process.PID != 0:
		return one(OK, fmt.Sprintf("osqueryd runs as process %d", process.PID), "")
	case installed == "":
		return one(Note, "osqueryd was not found in the usual places; kmodquery records and answers without it", "")
	case !isKnown:
		return one(Unknown, installed+" is installed; whether it runs is not known", "run doctor as root")
	}
	return one(Note, installed+" is installed and does not run", "start it to ship rows: systemctl start osqueryd")
}

// process returns the osqueryd that runs, and false if that is not known. Its watcher has
// the same command line as its worker.
func (o Osquery) process() (p Process, isKnown bool) {
	if o.Processes == nil {
		return p, false
	}
	all, err := o.Processes(osqueryPrograms[0])
	if len(all) > 0 {
		return all[0], true
	}
	return p, err == nil
}

// Flags returns the flags of the osqueryd that runs, or those in osquery's flag file, and
// where they come from. They are nil without an error if there are none.
func (o Osquery) Flags() (flags map[string]string, from string, err error) {
	file := o.Folder + "/osquery.flags"
	process, _ := o.process()
	given := parseFlags(process.Args)
	if named := given["flagfile"]; named != "" {
		file = named
	}
	content, err := o.Root.read(file)
	switch {
	case err != nil && (!errors.Is(err, fs.ErrNotExist) || given["flagfile"] != ""):
		return nil, file, err
	case err == nil:
		from, flags = file, parseFlags(strings.Split(content, "\n"))
	}
	if len(process.Args) > 0 {
		from = strings.TrimPrefix(from+" and ", " and ") + fmt.Sprintf("the command line of process %d", process.PID)
		if flags == nil {
			flags = map[string]string{}
		}
		for name, value := range given {
			flags[name] = value
		}
	}
	return flags, from, nil
}

// parseFlags reads flags as gflags does: --name=value, --name and --noname.
func parseFlags(lines []string) map[string]string {
	flags := map[string]string{}
	for _, line := range lines {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "-") {
			continue
		}
		name, value, hasValue := strings.Cut(strings.TrimLeft(line, "-"), "=")
		switch {
		case hasValue:
		case strings.HasPrefix(name, "no"):
			name, value = name[2:], "false"
		default:
			value = "true"
		}
		flags[name] = strings.Trim(value, `"'`)
	}
	return flags
}

// isTrue reports whether a flag is set, as gflags reads it.
func isTrue(value string) bool {
	return slices.Contains([]string{"true", "t", "1", "yes", "y"}, strings.ToLower(value))
}

// CheckFlags checks the flags that decide whether osquery starts the extension.
func (o Osquery) CheckFlags() []Result {
	flags, from, err := o.Flags()
	if err != nil {
		return unreadable(err, "correct the flag file that osqueryd names")
	}
	if flags == nil {
		return one(Note, "osquery has no flag file "+from+o.Folder+"/osquery.flags, so its defaults hold", "")
	}
	timeout, timeoutErr := strconv.Atoi(cmp.Or(flags["extensions_timeout"], "3"))
	switch {
	case isTrue(flags["disable_extensions"]):
		return one(Critical, from+" disables extensions", "remove --disable_extensions")
	case isTrue(flags["enable_extensions_watchdog"]):
		return one(Warning, from+" applies osquery's watchdog to extensions, which ends one of more than 200 MB or 10% of a processor", "remove --enable_extensions_watchdog, or set --watchdog_memory_limit to 512")
	case !slices.Contains(strings.Split(flags["extensions_require"], ","), "kmodquery"):
		return one(Note, from+" does not require kmodquery, so osquery may begin its schedule before the tables are there", "set --extensions_require=kmodquery")
	case timeoutErr == nil && timeout < 3:
		return one(Warning, fmt.Sprintf("%s gives extensions %d seconds to register", from, timeout), "set --extensions_timeout=10")
	}
	return one(OK, from+" lets osquery start the extension and wait for it", "")
}

// AutoloadFile returns the list of extensions that osquery starts.
func (o Osquery) AutoloadFile() string {
	flags, _, _ := o.Flags() // CheckFlags reports the error
	return cmp.Or(flags["extensions_autoload"], o.Folder+"/extensions.load")
}

// Socket returns the path of osquery's extension socket. Its default is that of osqueryd's
// packages.
func (o Osquery) Socket() string {
	flags, _, _ := o.Flags()
	return cmp.Or(flags["extensions_socket"], "/var/osquery/osquery.em")
}

// Extension returns the path of this extension in the list of those that osquery starts,
// or "".
func (o Osquery) Extension() string {
	content, _ := o.Root.read(o.AutoloadFile()) // CheckAutoload reports the error
	return extensionIn(content)
}

func extensionIn(list string) string {
	for line := range strings.Lines(list) {
		if line = strings.TrimSpace(line); strings.HasSuffix(line, "/"+BinaryName) {
			return line
		}
	}
	return ""
}

// CheckAutoload checks the list of extensions that osquery starts.
func (o Osquery) CheckAutoload() []Result {
	file := o.AutoloadFile()
	content, err := o.Root.read(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return one(Note, file+" does not exist, so osquery starts no extension by itself", "with osquery, write the path of "+BinaryName+" to it")
	case err != nil:
		return unreadable(err, "write the path of "+BinaryName+" to it")
	case extensionIn(content) == "":
		return one(Critical, file+" does not name "+BinaryName, "add the line /usr/lib/osquery/"+BinaryName)
	}
	info, err := os.Stat(o.Root.path(file))
	if err != nil {
		return unreadable(err, "")
	}
	if owner, isKnown := ownerOf(info); isKnown && owner != 0 && owner != os.Geteuid() || info.Mode().Perm()&0o022 != 0 {
		return one(Critical, fmt.Sprintf("%s can be changed by users other than root (user %d, mode %04o), who could have osquery run any program", file, owner, info.Mode().Perm()),
			"chown root "+file+" && chmod go-w "+file)
	}
	return one(OK, file+" names "+extensionIn(content), "")
}

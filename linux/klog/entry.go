package klog

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kmodquery/kmodquery/linux/klog/printk"
)

// A journalEntry is one entry of systemd's journal as journalctl prints it in JSON.
// Fields that the entry has more than once are left out; journald's own are unique.
type journalEntry struct {
	journalPosition
	fields map[string]string
}

// A journalPosition is an entry's place in the journal.
type journalPosition struct {
	bootID    string        // without dashes
	monotonic time.Duration // when journald received it; it grows within a boot
	realtime  time.Duration
	cursor    string
}

var errEntry = errors.New("no entry of the journal")

// parseJournalEntry parses one line of journalctl -o json.
func parseJournalEntry(b []byte) (journalEntry, error) {
	var values map[string]json.RawMessage
	if err := json.Unmarshal(b, &values); err != nil {
		return journalEntry{}, fmt.Errorf("%w: %w", errEntry, err)
	}
	e := journalEntry{fields: make(map[string]string, len(values))}
	for name, value := range values {
		if text, ok := journalField(value); ok {
			e.fields[name] = text
		}
	}
	e.cursor, e.bootID = e.fields["__CURSOR"], e.fields["_BOOT_ID"]
	var err error
	if e.realtime, err = e.micros("__REALTIME_TIMESTAMP"); err != nil {
		return journalEntry{}, err
	}
	if e.monotonic, err = e.micros("__MONOTONIC_TIMESTAMP"); err != nil {
		return journalEntry{}, err
	}
	if e.cursor == "" || len(e.cursor) > maxCursor || strings.ContainsAny(e.cursor, " \n") || !isBootID(e.bootID) {
		return journalEntry{}, errEntry
	}
	return e, nil
}

// maxCursor bounds a cursor. systemd's have about 130 bytes.
const maxCursor = 512

// journalField decodes a value, which is an array of bytes if it is no valid text.
func journalField(value json.RawMessage) (string, bool) {
	switch value[0] {
	case '"':
		var text string
		err := json.Unmarshal(value, &text)
		return text, err == nil
	case '[': // if the elements are not bytes, the entry has the field more than once
		var text []byte
		err := json.Unmarshal(value, &text)
		return string(text), err == nil
	}
	return "", false
}

func (e *journalEntry) micros(field string) (time.Duration, error) {
	n, err := strconv.ParseUint(e.fields[field], 10, 53)
	if err != nil {
		return 0, fmt.Errorf("%w: %s is %q", errEntry, field, e.fields[field])
	}
	return time.Duration(n) * time.Microsecond, nil
}

func isBootID(id string) bool {
	return len(id) == 32 && strings.Trim(id, "0123456789abcdef") == ""
}

// dashed returns a boot id as the kernel writes it.
func dashed(id string) string {
	return id[:8] + "-" + id[8:12] + "-" + id[12:16] + "-" + id[16:20] + "-" + id[20:]
}

// modulesLoad are the paths of systemd-modules-load.service's program.
var modulesLoad = []string{"/usr/lib/systemd/systemd-modules-load", "/lib/systemd/systemd-modules-load"}

// initScriptUnits are the units that systemd generates from Debian's script that loads
// modules. Only root's processes run in them.
var initScriptUnits = []string{"kmod.service", "module-init-tools.service"}

// kmodPrograms are the paths of kmod's program.
var kmodPrograms = []string{"/usr/bin/kmod", "/bin/kmod", "/usr/sbin/kmod", "/sbin/kmod"}

// statement returns what an entry states about modules. It uses only the kernel's
// messages and those of programs that load modules. It recognizes both by the fields
// that begin with an underscore: journald sets these itself, and the sender of a message
// cannot.
func (e *journalEntry) statement() (printk.Statement, bool) {
	text := e.fields["MESSAGE"]
	switch e.fields["_TRANSPORT"] {
	case "kernel":
		// Messages that programs write to /dev/kmsg have another facility.
		if e.fields["SYSLOG_FACILITY"] != "0" {
			return printk.Statement{}, false
		}
		return printk.Kernel(text)
	case "journal", "stdout", "syslog":
		isModulesLoad := e.fields["_SYSTEMD_UNIT"] == "systemd-modules-load.service" && slices.Contains(modulesLoad, e.fields["_EXE"])
		isKmod := slices.Contains(kmodPrograms, e.fields["_EXE"])
		isScript := slices.Contains(initScriptUnits, e.fields["_SYSTEMD_UNIT"])
		if e.fields["_UID"] != "0" || !isModulesLoad && !isKmod && !isScript {
			return printk.Statement{}, false
		}
		return printk.Loader(text)
	}
	return printk.Statement{}, false
}

// A loader is the process that sent a message.
type loader struct {
	pid, uid, gid               *int64
	name, path, cmdline, cgroup string
}

// loader returns the process that sent an entry, or nil for the kernel.
func (e *journalEntry) loader() *loader {
	if e.fields["_TRANSPORT"] == "kernel" {
		return nil
	}
	return &loader{
		pid: e.number("_PID"), uid: e.number("_UID"), gid: e.number("_GID"),
		name: e.fields["_COMM"], path: path.Clean(e.fields["_EXE"]),
		cmdline: e.fields["_CMDLINE"], cgroup: e.fields["_SYSTEMD_CGROUP"],
	}
}

func (e *journalEntry) number(field string) *int64 {
	n, err := strconv.ParseInt(e.fields[field], 10, 64)
	if err != nil {
		return nil
	}
	return &n
}

// time returns an entry's time. For one of the kernel's that is when the kernel logged
// it, not when journald read it.
func (e *journalEntry) time() time.Time {
	ago := time.Duration(0)
	if at, err := e.micros("_SOURCE_MONOTONIC_TIMESTAMP"); err == nil && e.fields["_TRANSPORT"] == "kernel" {
		ago = max(e.monotonic-at, 0)
	}
	return time.UnixMicro(int64(e.realtime / time.Microsecond)).Add(-ago)
}

// String returns the position in the form that parseJournalPosition parses.
func (p *journalPosition) String() string {
	return fmt.Sprintf("%s %d %d %s", p.bootID, p.monotonic.Microseconds(), p.realtime.Microseconds(), p.cursor)
}

// parseJournalPosition parses a position. It returns nil if the text is none.
func parseJournalPosition(text string) *journalPosition {
	var p journalPosition
	var monotonic, realtime uint64 // in microseconds
	n, _ := fmt.Sscanf(text, "%s %d %d %s", &p.bootID, &monotonic, &realtime, &p.cursor)
	if n < 4 || !isBootID(p.bootID) || len(p.cursor) > maxCursor {
		return nil
	}
	p.monotonic, p.realtime = time.Duration(monotonic)*time.Microsecond, time.Duration(realtime)*time.Microsecond
	return &p
}

// covers reports whether an entry is the one at the position or before it. The wall
// clock decides only between boots.
func (p *journalPosition) covers(e *journalPosition) bool {
	switch {
	case e.cursor == p.cursor:
		return true
	case e.bootID == p.bootID:
		return e.monotonic < p.monotonic
	}
	return e.realtime < p.realtime
}

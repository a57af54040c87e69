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

// A journalEntry is one entry of systemd's journal as journalctl writes it in
// JSON. A field that the journal has more than once, which no field of
// journald's own is, counts as absent.
type journalEntry struct {
	fields    map[string]string
	cursor    string
	bootID    string // without dashes
	realtime  time.Duration
	monotonic time.Duration // when journald took it; it grows from entry to entry of a boot
}

var errEntry = errors.New("no entry of the journal")

// parseJournalEntry reads one line of journalctl -o json.
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

// maxCursor is the longest cursor that is taken for one. systemd's have some 130
// bytes.
const maxCursor = 512

// journalField reads a value, which is an array of bytes where it is no text.
func journalField(value json.RawMessage) (string, bool) {
	if len(value) > 0 && value[0] == '"' {
		var text string
		err := json.Unmarshal(value, &text)
		return text, err == nil
	}
	if len(value) == 0 || value[0] != '[' {
		return "", false
	}
	var numbers []uint8
	// Not into []byte: that is read from base64. Numbers beyond a byte are an
	// error, as texts are: then the field is there more than once.
	var wide []uint16
	if err := json.Unmarshal(value, &wide); err != nil {
		return "", false
	}
	for _, n := range wide {
		if n > 255 {
			return "", false
		}
		numbers = append(numbers, uint8(n))
	}
	return string(numbers), true
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

// dashed is a boot id as the kernel writes it.
func dashed(id string) string {
	return id[:8] + "-" + id[8:12] + "-" + id[12:16] + "-" + id[16:20] + "-" + id[20:]
}

// modulesLoad are the places of the program whose unit is
// systemd-modules-load.service.
var modulesLoad = []string{"/usr/lib/systemd/systemd-modules-load", "/lib/systemd/systemd-modules-load"}

// initScriptUnits are the units that systemd makes of Debian's script that loads
// modules. Whatever runs in them is root's.
var initScriptUnits = []string{"kmod.service", "module-init-tools.service"}

// kmodPrograms are the places of kmod's one program.
var kmodPrograms = []string{"/usr/bin/kmod", "/bin/kmod", "/usr/sbin/kmod", "/sbin/kmod"}

// says is what an entry says of modules. It believes the kernel, by the fields
// that journald gives the kernel's own messages only, and the programs that load
// modules, by those that journald asks the kernel for: who sends a message
// cannot set a field that begins with an underscore.
func (e *journalEntry) statement() (printk.Statement, bool) {
	text := e.fields["MESSAGE"]
	switch e.fields["_TRANSPORT"] {
	case "kernel":
		// What user space wrote to /dev/kmsg has another facility.
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

// A loader is the process that a message came from.
type loader struct {
	pid, uid, gid               *int64
	name, path, cmdline, cgroup string
}

// loader is the process that an entry came from, nil for the kernel.
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

// time is the moment of an entry: for one of the kernel's when it was said, not
// when journald read it.
func (e *journalEntry) time() time.Time {
	ago := time.Duration(0)
	if said, err := e.micros("_SOURCE_MONOTONIC_TIMESTAMP"); err == nil && e.fields["_TRANSPORT"] == "kernel" {
		ago = max(e.monotonic-said, 0)
	}
	return time.UnixMicro(int64(e.realtime / time.Microsecond)).Add(-ago)
}

// A journalPosition is the entry up to which the journal was read.
type journalPosition struct {
	bootID              string
	monotonic, realtime time.Duration
	cursor              string
}

// position is what parseJournalPosition reads.
func (e *journalEntry) position() string {
	return fmt.Sprintf("%s %d %d %s", e.bootID, e.monotonic.Microseconds(), e.realtime.Microseconds(), e.cursor)
}

// parseJournalPosition returns nil for what is no position.
func parseJournalPosition(text string) *journalPosition {
	parts := strings.Split(text, " ")
	if len(parts) != 4 || !isBootID(parts[0]) || parts[3] == "" || len(parts[3]) > maxCursor {
		return nil
	}
	p := &journalPosition{bootID: parts[0], cursor: parts[3]}
	for i, to := range []*time.Duration{&p.monotonic, &p.realtime} {
		n, err := strconv.ParseUint(parts[1+i], 10, 53)
		if err != nil {
			return nil
		}
		*to = time.Duration(n) * time.Microsecond
	}
	return p
}

// isBehind reports whether the position was reached with or after an entry. The
// wall clock decides only between boots.
func (p *journalPosition) isBehind(e *journalEntry) bool {
	switch {
	case e.cursor == p.cursor:
		return true
	case e.bootID == p.bootID:
		return e.monotonic < p.monotonic
	}
	return e.realtime < p.realtime
}

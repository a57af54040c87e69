package record

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/elastic/go-libaudit/v2/auparse"
)

// maxRecord is the greatest length in bytes of a record's text (MAX_AUDIT_MESSAGE_LENGTH
// of the audit daemon).
const maxRecord = 8970

// MaxLine is the greatest length in bytes of a line that [ParseLine] accepts: a record,
// its type, a node's name, and the daemon's enrichment.
const MaxLine = 2 * maxRecord

// A Record is one record of an event.
type Record struct {
	Type auparse.AuditMessageType
	ID   ID
	Node string // the host's name if the daemon writes one

	// The fields below are empty if the event of a module call has no records of this
	// type.
	Fields Fields
	Text   string // as the audit daemon logs the record, without node and enrichment
}

// An ID identifies an event within a boot. All its records have it.
type ID struct {
	Millis int64 // Unix time of the system call's entry, in milliseconds
	Serial uint32
}

// Time returns when the system call was entered.
func (id ID) Time() time.Time { return time.UnixMilli(id.Millis) }

var (
	errNoType   = errors.New("parse an audit record: no record type")
	errNoHeader = errors.New("parse an audit record: no time and serial number")
	errTooLong  = errors.New("parse an audit record: too long")
)

// ParseMessage parses a record as the kernel sends it.
func ParseMessage(kind auparse.AuditMessageType, message string) (Record, error) {
	if len(message) > maxRecord {
		return Record{}, errTooLong
	}
	return parse(kind, strings.TrimRight(message, "\x00\n"))
}

// ParseLine parses a line of the audit daemon's log, without its line feed.
func ParseLine(line string) (Record, error) {
	if len(line) > MaxLine {
		return Record{}, errTooLong
	}
	node := ""
	if rest, ok := strings.CutPrefix(line, "node="); ok {
		node, line, _ = strings.Cut(rest, " ")
	}
	head, message, _ := strings.Cut(line, " msg=")
	name, ok := strings.CutPrefix(head, "type=")
	kind, err := auparse.GetAuditMessageType(name)
	if err != nil && strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") == "" {
		kind, err = 0, nil // newer than the list, so no type of a module call
	}
	if !ok || name == "" || err != nil {
		return Record{}, errNoType
	}
	// The daemon's enrichment follows: names for the numbers before it.
	message, _, _ = strings.Cut(message, "\x1d")
	r, err := parse(kind, strings.TrimRight(message, " "))
	r.Node = node
	return r, err
}

// parse parses "audit(1700000000.123:45): " and the fields after it.
func parse(kind auparse.AuditMessageType, message string) (Record, error) {
	rest, isRecord := strings.CutPrefix(message, "audit(")
	header, body, isHeader := strings.Cut(rest, "):")
	at, serial, _ := strings.Cut(header, ":")
	seconds, millis, _ := strings.Cut(at, ".")
	s, err := strconv.ParseUint(seconds, 10, 40) // until the year 36812
	ms, millisErr := strconv.ParseUint(millis, 10, 10)
	n, serialErr := strconv.ParseUint(serial, 10, 32)
	if !isRecord || !isHeader || len(millis) != 3 || errors.Join(err, millisErr, serialErr) != nil {
		return Record{}, errNoHeader
	}
	r := Record{Type: kind, ID: ID{Millis: int64(s)*1000 + int64(ms), Serial: uint32(n)}}
	if IsOfModuleCall(kind) {
		r.Fields, r.Text = parseFields(body), "type="+kind.String()+" msg="+message
	}
	return r, nil
}

// IsOfModuleCall reports whether the event of a module call may have records of a type.
// Only the kernel writes records of these types. The kernel does not let programs choose
// them (kernel/audit.c, audit_netlink_ok), and the daemon's messages have other types.
func IsOfModuleCall(kind auparse.AuditMessageType) bool {
	switch kind {
	case auparse.AUDIT_SYSCALL, auparse.AUDIT_KERN_MODULE, auparse.AUDIT_PATH, auparse.AUDIT_CWD,
		auparse.AUDIT_EXECVE, auparse.AUDIT_PROCTITLE, auparse.AUDIT_EOE, auparse.AUDIT_AVC, auparse.AUDIT_INTEGRITY_DATA:
		return true
	}
	return false
}

// ModulePath returns the absolute path of a module's file if the record, of the event of
// a module call, has it, and "" otherwise. The call itself looks up no path, so the PATH
// records of most loads are of files that the module's init creates, in debugfs for
// example; one of an existing file with a module's name is the module. A denied load may
// have a record of SELinux (selinux_kernel_module_from_file, security/selinux/hooks.c) or
// of IMA (integrity_audit_msg, security/integrity/integrity_audit.c).
func (r Record) ModulePath() string {
	field := "name"
	switch r.Type {
	case auparse.AUDIT_PATH:
		const regular = "0100"
		if r.Fields.Word("nametype") != "NORMAL" || !strings.HasPrefix(r.Fields.Word("mode"), regular) {
			return ""
		}
	case auparse.AUDIT_AVC:
		if field = "path"; r.Fields.Word("tclass") != "system" {
			return ""
		}
	case auparse.AUDIT_INTEGRITY_DATA:
	default:
		return ""
	}
	path, _ := r.Fields.Text(field)
	if !strings.HasPrefix(path, "/") || !isModulePath(path) {
		return ""
	}
	return path
}

func isModulePath(path string) bool {
	suffixes := []string{".ko", ".ko.xz", ".ko.zst", ".ko.gz"}
	return slices.ContainsFunc(suffixes, func(suffix string) bool { return strings.HasSuffix(path, suffix) })
}

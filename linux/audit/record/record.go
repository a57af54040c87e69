package record

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/elastic/go-libaudit/v2/auparse"
)

// maxRecord is the greatest length of a record's text in bytes that the kernel
// makes (MAX_AUDIT_MESSAGE_LENGTH of the audit daemon).
const maxRecord = 8970

// MaxLine is the greatest length of a line in bytes that [ParseLine] accepts:
// a record, its type, a node's name, and the enrichment.
const MaxLine = 2 * maxRecord

// A Record is one record of an event.
type Record struct {
	Type auparse.AuditMessageType
	ID   ID
	Node string // the host's name where the daemon writes one, else ""
	// Fields and Text, which is the record as the audit daemon logs it, without
	// node and enrichment, are there where a module call's event may have a
	// record of this type.
	Fields Fields
	Text   string
}

// An ID is what all records of an event have in common, and no others of the
// same boot.
type ID struct {
	Millis int64 // Unix time in milliseconds at which the system call was entered
	Serial uint32
}

// Time is the moment that the ID names.
func (id ID) Time() time.Time { return time.UnixMilli(id.Millis) }

// String is the ID as records show it.
func (id ID) String() string {
	return fmt.Sprintf("%d.%03d:%d", id.Millis/1000, id.Millis%1000, id.Serial)
}

var (
	errNoType   = errors.New("no record type")
	errNoHeader = errors.New("no time and serial number")
	errTooLong  = errors.New("too long for a record")
)

// ParseMessage reads a record as the kernel hands it out.
func ParseMessage(kind auparse.AuditMessageType, message string) (Record, error) {
	if len(message) > maxRecord {
		return Record{}, errTooLong
	}
	message = strings.TrimRight(message, "\x00\n")
	id, body, err := parseHeader(message)
	if err != nil {
		return Record{}, fmt.Errorf("read an audit record: %w", err)
	}
	r := Record{Type: kind, ID: id}
	if isOfModuleCall(kind) {
		r.Fields, r.Text = parseFields(body), "type="+kind.String()+" msg="+message
	}
	return r, nil
}

// ParseLine reads a line of the audit daemon's log, without its newline.
func ParseLine(line string) (Record, error) {
	if len(line) > MaxLine {
		return Record{}, errTooLong
	}
	var r Record
	if rest, ok := strings.CutPrefix(line, "node="); ok {
		r.Node, line, _ = strings.Cut(rest, " ")
	}
	name, message, ok := strings.Cut(line, " msg=")
	if !ok {
		return Record{}, fmt.Errorf("read a line of the audit log: %w", errNoHeader)
	}
	name, ok = strings.CutPrefix(name, "type=")
	if !ok {
		return Record{}, fmt.Errorf("read a line of the audit log: %w", errNoType)
	}
	kind, err := auparse.GetAuditMessageType(name)
	if err != nil {
		return Record{}, fmt.Errorf("read a line of the audit log: %w", errNoType)
	}
	// What follows is the daemon's own reading of the numbers before.
	message, _, _ = strings.Cut(message, "\x1d")
	message = strings.TrimRight(message, " ")
	id, body, err := parseHeader(message)
	if err != nil {
		return Record{}, fmt.Errorf("read a line of the audit log: %w", err)
	}
	r.Type, r.ID = kind, id
	if isOfModuleCall(kind) {
		r.Fields, r.Text = parseFields(body), "type="+name+" msg="+message
	}
	return r, nil
}

// isOfModuleCall reports whether records of a type are ever part of an event
// that is looked at. They are all made by the kernel itself: what programs send
// through audit, and what the daemon says, has types of its own, which the kernel
// does not let them choose freely (kernel/audit.c, audit_netlink_ok).
func isOfModuleCall(kind auparse.AuditMessageType) bool {
	switch kind {
	case auparse.AUDIT_SYSCALL, auparse.AUDIT_KERN_MODULE, auparse.AUDIT_PATH, auparse.AUDIT_CWD,
		auparse.AUDIT_EXECVE, auparse.AUDIT_PROCTITLE, auparse.AUDIT_EOE:
		return true
	}
	return false
}

// parseHeader reads "audit(1700000000.123:45): " and returns what follows.
func parseHeader(message string) (ID, string, error) {
	rest, ok := strings.CutPrefix(message, "audit(")
	if !ok {
		return ID{}, "", errNoHeader
	}
	header, body, ok := strings.Cut(rest, "):")
	if !ok {
		return ID{}, "", errNoHeader
	}
	at, serial, _ := strings.Cut(header, ":")
	seconds, millis, _ := strings.Cut(at, ".")
	s, err := strconv.ParseUint(seconds, 10, 40) // until the year 36812
	if err != nil {
		return ID{}, "", errNoHeader
	}
	ms, err := strconv.ParseUint(millis, 10, 10)
	if err != nil || len(millis) != 3 {
		return ID{}, "", errNoHeader
	}
	n, err := strconv.ParseUint(serial, 10, 32)
	if err != nil {
		return ID{}, "", errNoHeader
	}
	return ID{Millis: int64(s)*1000 + int64(ms), Serial: uint32(n)}, strings.TrimPrefix(body, " "), nil
}

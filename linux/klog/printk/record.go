package printk

import (
	"bytes"
	"errors"
	"strconv"
	"strings"
	"time"
)

// A Record is one record of /dev/kmsg (Documentation/ABI/testing/dev-kmsg).
type Record struct {
	Priority int // facility and level, as syslog(3) packs them
	Sequence uint64
	Time     time.Duration // by printk's clock, to the microsecond
	Caller   string        // T and the thread's id, or C and the processor's; empty on kernels without it
	Text     string        // the message, with escapes decoded
	Raw      string        // the first line, without the lines that describe a device
}

// IsFromKernel reports whether the kernel logged the record. Programs that write to
// /dev/kmsg cannot use the kernel's facility (kernel/printk/printk.c, devkmsg_write).
func (r *Record) IsFromKernel() bool { return r.Priority>>3 == 0 }

var errRecord = errors.New("no record of /dev/kmsg")

// ParseRecord parses the result of one read(2) of /dev/kmsg.
func ParseRecord(b []byte) (Record, error) {
	line, _, _ := bytes.Cut(b, []byte{'\n'})
	head, text, ok := strings.Cut(string(line), ";")
	fields := strings.Split(head, ",")
	if !ok || len(fields) < 4 {
		return Record{}, errRecord
	}
	priority, err := strconv.ParseUint(fields[0], 10, 31)
	if err != nil {
		return Record{}, errRecord
	}
	sequence, err := strconv.ParseUint(fields[1], 10, 63)
	if err != nil {
		return Record{}, errRecord
	}
	micros, err := strconv.ParseUint(fields[2], 10, 53)
	if err != nil {
		return Record{}, errRecord
	}
	r := Record{
		Priority: int(priority),
		Sequence: sequence,
		Time:     time.Duration(micros) * time.Microsecond,
		Text:     unescape(text),
		Raw:      string(line),
	}
	for _, field := range fields[4:] { // the fourth are flags
		if caller, ok := strings.CutPrefix(field, "caller="); ok {
			r.Caller = caller
		}
	}
	return r, nil
}

// unescape decodes the bytes that the kernel escapes, backslashes and those that are not
// printable: \x and two digits (append_char and msg_print_ext_body).
func unescape(text string) string {
	if !strings.Contains(text, `\x`) {
		return text
	}
	var b strings.Builder
	for {
		before, after, ok := strings.Cut(text, `\x`)
		b.WriteString(before)
		if !ok {
			return b.String()
		}
		text = after
		if len(after) >= 2 {
			if c, err := strconv.ParseUint(after[:2], 16, 8); err == nil {
				b.WriteByte(byte(c))
				text = after[2:]
				continue
			}
		}
		b.WriteString(`\x`)
	}
}

// ThreadOf returns the id of a record's caller, in the initial pid namespace. ok is
// false if the caller is no thread.
func ThreadOf(caller string) (tid int64, ok bool) {
	digits, ok := strings.CutPrefix(caller, "T")
	if !ok {
		return 0, false
	}
	tid, err := strconv.ParseInt(digits, 10, 32)
	return tid, err == nil && tid > 0
}

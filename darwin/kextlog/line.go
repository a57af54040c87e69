package kextlog

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// A LineKind is the kind of a line that log(1) prints.
type LineKind int

const (
	note    LineKind = iota // any other text, or an empty line
	header                  // the predicate that log filters by, before its first record
	Dropped                 // log stream dropped messages at this point
	footer                  // the end of log show
	Entry                   // a record
)

// A Line is one line of log stream or log show.
type Line struct {
	Kind   LineKind
	Record Record // set if Kind is Entry
}

// HasStarted reports whether log prints such a line only after it has started to
// read the log.
func (l *Line) HasStarted() bool { return l.Kind != note }

// A Record is one message of the log.
type Record struct {
	Time    time.Time
	Mach    uint64 // mach_absolute_time since the boot, in ticks of the machine
	Thread  uint64
	BootID  string // as printed
	Message string

	pid     int64  // 0 for the kernel
	userID  *int64 // nil if the line has none
	process string // path of the program, /kernel for the kernel
	sender  string // path of the library or extension in it that logged the message
}

// timeForm is the format of a record's timestamp.
const timeForm = "2006-01-02 15:04:05.999999-0700"

var errEntry = errors.New("not a record of the unified log")

// ParseLine parses a line without its line feed. It returns an error if the line
// is a JSON object but not a valid record.
func ParseLine(b []byte) (Line, error) {
	b = bytes.TrimSpace(b)
	switch {
	case len(b) == 0:
		return Line{}, nil
	case b[0] == '{':
		return parseObject(b)
	case bytes.HasPrefix(b, []byte("Filtering the log data")):
		return Line{Kind: header}, nil
	case bytes.HasPrefix(b, []byte("===")) && bytes.Contains(b, []byte("dropped")):
		return Line{Kind: Dropped}, nil
	}
	return Line{}, nil
}

func parseObject(b []byte) (Line, error) {
	var object struct {
		Finished      *json.Number `json:"finished"`
		Timestamp     string       `json:"timestamp"`
		MachTimestamp uint64       `json:"machTimestamp"`
		ThreadID      uint64       `json:"threadID"`
		ProcessID     *int64       `json:"processID"`
		UserID        *int64       `json:"userID"`
		Process       string       `json:"processImagePath"`
		Sender        string       `json:"senderImagePath"`
		BootUUID      string       `json:"bootUUID"`
		Message       string       `json:"eventMessage"`
	}
	if err := json.Unmarshal(b, &object); err != nil {
		return Line{}, fmt.Errorf("%w: %w", errEntry, err)
	}
	if object.Finished != nil && object.Timestamp == "" {
		return Line{Kind: footer}, nil
	}
	at, err := time.Parse(timeForm, object.Timestamp)
	if err != nil {
		return Line{}, fmt.Errorf("%w: %w", errEntry, err)
	}
	if object.ProcessID == nil {
		return Line{}, fmt.Errorf("%w: it has no processID", errEntry)
	}
	return Line{Kind: Entry, Record: Record{
		Time: at, Mach: object.MachTimestamp, Thread: object.ThreadID, BootID: object.BootUUID, Message: object.Message,
		pid: *object.ProcessID, userID: object.UserID, process: object.Process, sender: object.Sender,
	}}, nil
}

package kextlog

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// A LineKind is what a line of log(1) is.
type LineKind int

const (
	Note    LineKind = iota // some other text, or an empty line
	Header                  // log says which predicate it filters by: it has begun
	Dropped                 // messages were dropped from a live stream here
	Footer                  // log show has come to its end
	Entry                   // a record
)

// A Line is one line of log stream or log show.
type Line struct {
	Kind   LineKind
	Record Record // of an Entry
}

// A Record is one message of the log.
type Record struct {
	Time    time.Time
	Mach    uint64 // mach_absolute_time of the boot, in ticks of the machine
	Thread  uint64
	PID     int64  // 0 for the kernel
	UserID  *int64 // nil where the log does not say
	Process string // path of the program that spoke, /kernel for the kernel
	Sender  string // path of the library or extension in it whose code spoke
	BootID  string // as it stands
	Message string
}

// timeForm is how log writes a record's time.
const timeForm = "2006-01-02 15:04:05.999999-0700"

var errEntry = errors.New("no record of the unified log")

// ParseLine reads a line without its end. An error says that the line should
// have been a record.
func ParseLine(b []byte) (Line, error) {
	b = bytes.TrimSpace(b)
	switch {
	case len(b) == 0:
		return Line{}, nil
	case b[0] == '{':
		return parseObject(b)
	case bytes.HasPrefix(b, []byte("Filtering the log data")):
		return Line{Kind: Header}, nil
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
		return Line{Kind: Footer}, nil
	}
	at, err := time.Parse(timeForm, object.Timestamp)
	if err != nil {
		return Line{}, fmt.Errorf("%w: %w", errEntry, err)
	}
	if object.ProcessID == nil {
		return Line{}, fmt.Errorf("%w: it has no processID", errEntry)
	}
	return Line{Kind: Entry, Record: Record{
		Time: at, Mach: object.MachTimestamp, Thread: object.ThreadID, PID: *object.ProcessID, UserID: object.UserID,
		Process: object.Process, Sender: object.Sender, BootID: object.BootUUID, Message: object.Message,
	}}, nil
}

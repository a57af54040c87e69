package es

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"
)

// A record holds the used fields of one JSON object that eslogger prints. The object
// follows es_message_t (EndpointSecurity/ESMessage.h), which Apple changes without
// notice: a value of an unexpected type is treated as unknown, and unknown keys are
// ignored.
type record struct {
	Time         string        `json:"time"`           // RFC 3339, with nanoseconds
	MachTime     uint64        `json:"mach_time"`      // ticks since the boot, without sleep
	GlobalSeqNum maybe[uint64] `json:"global_seq_num"` // rises by one with each message to this client
	Process      recordProcess `json:"process"`        // the requesting process

	// Event has one key, the name of the event. Its value is an es_event_kextload_t or
	// es_event_kextunload_t.
	Event map[string]json.RawMessage `json:"event"`

	Action struct { // the verdict on the request
		Result struct {
			Result struct {
				Auth maybe[int64] `json:"auth"` // es_auth_result_t: 0 allowed, 1 denied
			} `json:"result"`
		} `json:"result"`
	} `json:"action"`
}

// A recordProcess is es_process_t.
type recordProcess struct {
	AuditToken auditToken   `json:"audit_token"`
	Ppid       maybe[int64] `json:"ppid"`
	SigningID  string       `json:"signing_id"`
	TeamID     string       `json:"team_id"`
	Executable struct {
		Path          string `json:"path"`
		PathTruncated bool   `json:"path_truncated"`
	} `json:"executable"`
}

// An auditToken is audit_token_t: its numbers by name. A nil value is unknown.
type auditToken map[string]maybe[int64]

// tokenNames are the names of the numbers in the order of audit_token_t.
var tokenNames = []string{"auid", "euid", "egid", "ruid", "rgid", "pid", "asid", "pidversion"}

// UnmarshalJSON accepts both formats: an object up to message version 9, and from
// version 10 on the eight numbers of audit_token_t. Any other value leaves the token
// unknown and is no error.
func (t *auditToken) UnmarshalJSON(b []byte) error {
	var values []*int64
	var named map[string]maybe[int64]
	if json.Unmarshal(b, &values) == nil && len(values) == len(tokenNames) {
		named = map[string]maybe[int64]{}
		for i, name := range tokenNames {
			named[name] = maybe[int64]{values[i]}
		}
	} else {
		_ = json.Unmarshal(b, &named) // any other value than an object has none of them
	}
	for _, name := range tokenNames[:5] {
		if id := named[name].value; id != nil && *id < 0 {
			*id = int64(uint32(*id)) // uid_t is unsigned
		}
	}
	*t = named
	return nil
}

// A maybe holds a value of type T, or nil if the JSON value has another type.
// encoding/json would set a plain pointer to a zero value then.
type maybe[T any] struct{ value *T }

// UnmarshalJSON accepts any value.
func (m *maybe[T]) UnmarshalJSON(b []byte) error {
	var value *T
	if json.Unmarshal(b, &value) == nil {
		m.value = value
	}
	return nil
}

// parseRecord parses a line. It ignores text before the first brace, which the
// terminal may have added.
func parseRecord(line []byte) (record, error) {
	start := bytes.IndexByte(line, '{')
	if start < 0 {
		return record{}, errors.New("parse a line of eslogger: it has no JSON object")
	}
	var r record
	err := json.Unmarshal(line[start:], &r)
	if wrong := (*json.UnmarshalTypeError)(nil); errors.As(err, &wrong) {
		err = nil // the other fields were parsed
	}
	if err != nil {
		return record{}, fmt.Errorf("parse a line of eslogger: %w", err)
	}
	if r.Event == nil {
		return record{}, errors.New("parse a line of eslogger: it has no event")
	}
	return r, nil
}

// at returns the time of the event, and false if the record has none or one that
// does not fit a Unix time in nanoseconds.
func (r *record) at() (time.Time, bool) {
	at, err := time.Parse(time.RFC3339Nano, r.Time)
	return at, err == nil && at.Unix() > 0 && at.Unix() <= math.MaxInt64/int64(time.Second)-1
}

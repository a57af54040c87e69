package es

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"
)

// A record is one of eslogger's JSON objects, as far as it is used. Its
// shape is es_message_t's (EndpointSecurity/ESMessage.h), which Apple changes
// without notice: a value that is not of the kind that it was stays unknown, and
// keys that are not known here are passed over.
type record struct {
	Time         string              `json:"time"`           // RFC 3339, with nanoseconds
	MachTime     uint64              `json:"mach_time"`      // ticks since the boot, without sleep
	GlobalSeqNum maybe[uint64]       `json:"global_seq_num"` // rises by one with each message to this client
	Process      recordProcess       `json:"process"`        // who asked; never the kernel extension
	Event        maybe[recordEvent]  `json:"event"`
	Action       maybe[recordAction] `json:"action"`
}

// A recordEvent has one key, its kind. Others are not asked for.
type recordEvent struct {
	Kextload   recordKext `json:"kextload"`
	Kextunload recordKext `json:"kextunload"`
}

// A recordKext is es_event_kextload_t or es_event_kextunload_t.
type recordKext struct {
	isThere    bool
	identifier string // the bundle id
}

// UnmarshalJSON takes anything but null: what happened is known from the key.
func (k *recordKext) UnmarshalJSON(b []byte) error {
	var value struct{ Identifier maybe[string] }
	_ = json.Unmarshal(b, &value) // what is no object has no identifier
	k.isThere = string(b) != "null"
	if value.Identifier.value != nil {
		k.identifier = *value.Identifier.value
	}
	return nil
}

// A recordAction is the verdict on a message that tells of one.
type recordAction struct {
	Result struct {
		Result struct {
			Auth maybe[int64] `json:"auth"` // es_auth_result_t: 0 allowed, 1 denied
		} `json:"result"`
	} `json:"result"`
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

// An auditToken is audit_token_t. Nil is unknown.
type auditToken struct {
	pid, euid, ruid, egid, rgid, auid, asid *int64
}

// UnmarshalJSON takes both forms: an object up to version 9 of the messages, and
// from version 10 on the eight numbers in the order of audit_token_t. Anything
// else is unknown, and no error.
func (t *auditToken) UnmarshalJSON(b []byte) error {
	*t = auditToken{}
	if b[0] == '[' {
		var values []int64
		if json.Unmarshal(b, &values) == nil && len(values) == 8 {
			for i, to := range []**int64{&t.auid, &t.euid, &t.egid, &t.ruid, &t.rgid, &t.pid, &t.asid} {
				*to = &values[i]
			}
		}
	} else {
		var values struct{ Pid, Euid, Ruid, Egid, Rgid, Auid, Asid maybe[int64] }
		_ = json.Unmarshal(b, &values) // what is no object has none of them
		*t = auditToken{
			values.Pid.value, values.Euid.value, values.Ruid.value, values.Egid.value, values.Rgid.value, values.Auid.value, values.Asid.value,
		}
	}
	for _, id := range []*int64{t.euid, t.ruid, t.egid, t.rgid, t.auid} {
		if id != nil && *id < 0 {
			*id = int64(uint32(*id)) // uid_t has no sign
		}
	}
	return nil
}

// A maybe is a value that is nil unless there is one of its kind. A plain pointer
// would be to a zero that nobody told.
type maybe[T any] struct{ value *T }

// UnmarshalJSON takes anything.
func (m *maybe[T]) UnmarshalJSON(b []byte) error {
	var value *T
	err := json.Unmarshal(b, &value)
	if err == nil {
		m.value = value
	}
	return nil
}

// parseRecord reads a line. Text before the first brace is passed over:
// a terminal may have something else to say.
func parseRecord(line []byte) (record, error) {
	start := bytes.IndexByte(line, '{')
	if start < 0 {
		return record{}, errors.New("read eslogger's line: it has no object")
	}
	var r record
	err := json.Unmarshal(line[start:], &r)
	if wrong := (*json.UnmarshalTypeError)(nil); errors.As(err, &wrong) {
		err = nil // the rest was read
	}
	if err != nil {
		return record{}, fmt.Errorf("read eslogger's line: %w", err)
	}
	if r.Event.value == nil {
		return record{}, errors.New("read eslogger's line: it tells of no event")
	}
	return r, nil
}

// at is when it happened, false where the record does not tell, or tells of a time
// that has no number of nanoseconds.
func (r *record) at() (time.Time, bool) {
	at, err := time.Parse(time.RFC3339Nano, r.Time)
	return at, err == nil && at.Unix() > 0 && at.Unix() <= math.MaxInt64/int64(time.Second)-1
}

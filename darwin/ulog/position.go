package ulog

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/kmodquery/kmodquery/darwin/kextlog"
)

const (
	// overlap is how late a record may come: log does not print records in order,
	// so records up to this time before the last one may still be missing.
	overlap = 5 * time.Second
	// clockStep is how far back a record must be for the clock to have been set
	// back.
	clockStep = time.Minute
	// maxEmitted bounds the remembered records, and maxPositionRecords those in a
	// position.
	maxEmitted         = 16384
	maxPositionRecords = 512
	// maxPosition bounds a position, in bytes.
	maxPosition = 64 << 10
)

// boot stands for the start of this boot's log.
var boot = time.Unix(0, 0)

// keyOf returns a text that identifies a record of the log.
func keyOf(r *kextlog.Record) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%d\x00%d\x00%s\x00", r.BootID, r.Mach, r.Thread, r.Message))
	return hex.EncodeToString(sum[:8])
}

// A position lists what was emitted: everything before Since, and the records in
// Emitted. The store keeps it as JSON, so the names in the tags must not change.
type position struct {
	Since   int64           `json:"mark"` // Unix time in nanoseconds; 0 is the boot
	Emitted []emittedRecord `json:"told,omitempty"`
}

// An emittedRecord is a record of the log whose events were emitted.
type emittedRecord struct {
	Key string `json:"key"` // from keyOf
	At  int64  `json:"at"`  // Unix time in nanoseconds

	isFolded bool // a refusal of it is counted in an event that is not emitted yet
}

// parsePosition parses a position. It returns the zero position for an invalid one.
func parsePosition(text string) position {
	var p position
	isValid := len(text) <= maxPosition && json.Unmarshal([]byte(text), &p) == nil
	if !isValid || p.Since < 0 || len(p.Emitted) > maxPositionRecords {
		return position{}
	}
	return p
}

// emittedRecords remembers the last records whose events were emitted.
type emittedRecords struct {
	list   []emittedRecord // in the order of their emission
	last   int64           // the latest time of one, since the clock was last set back
	folded *int64          // the earliest time of a folded one; nil if there is none
}

// newEmittedRecords returns the records of a position.
func newEmittedRecords(p position) *emittedRecords {
	r := &emittedRecords{list: p.Emitted}
	for _, e := range p.Emitted {
		r.last = max(r.last, e.At)
	}
	return r
}

func (r *emittedRecords) has(key string) bool {
	return slices.ContainsFunc(r.list, func(e emittedRecord) bool { return e.Key == key })
}

// add adds a record. The time of a live record is the current time; an earlier one
// than before shows that the clock was set back.
func (r *emittedRecords) add(key string, at time.Time, isLive, isFolded bool) {
	e := emittedRecord{Key: key, At: at.UnixNano(), isFolded: isFolded}
	if isFolded && (r.folded == nil || e.At < *r.folded) {
		r.folded = &e.At
	}
	if e.At > r.last || isLive && r.last-e.At > int64(clockStep) {
		r.last = e.At
	}
	r.list = append(r.list, e)
	r.list = r.list[max(0, len(r.list)-maxEmitted):]
}

// flushed notes that the events that count folded refusals are emitted.
func (r *emittedRecords) flushed() {
	r.folded = nil
	for i := range r.list {
		r.list[i].isFolded = false
	}
}

// position returns the position for parsePosition. Everything before missing was
// emitted, except folded records; nil means that only late records can be missing.
func (r *emittedRecords) position(missing *time.Time) string {
	p := position{Since: r.last - int64(overlap)}
	if missing != nil {
		p.Since = missing.UnixNano()
	}
	if r.folded != nil {
		p.Since = min(p.Since, *r.folded)
	}
	p.Since = max(0, p.Since)
	for _, e := range slices.Backward(r.list) {
		if e.At >= p.Since && !e.isFolded && len(p.Emitted) < maxPositionRecords {
			p.Emitted = append(p.Emitted, e)
		}
	}
	text, _ := json.Marshal(p) // numbers and strings always encode
	return string(text)
}

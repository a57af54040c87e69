package ulog

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strconv"
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

// A recordKey identifies a record of the log.
type recordKey [8]byte

func keyOf(r *kextlog.Record) recordKey {
	sum := sha256.New()
	for _, part := range []string{r.BootID, strconv.FormatUint(r.Mach, 10), strconv.FormatUint(r.Thread, 10), r.Message} {
		sum.Write([]byte(part + "\x00"))
	}
	return recordKey(sum.Sum(nil)[:8])
}

// A position lists what was emitted: everything before Since, and the records in
// Emitted. The store keeps it as JSON, so the names in the tags must not change.
type position struct {
	Since   int64          `json:"mark"` // Unix time in nanoseconds; 0 is the boot
	Emitted []storedRecord `json:"told,omitempty"`
}

// A storedRecord is an emitted record in a position.
type storedRecord struct {
	Key string `json:"key"` // hex
	At  int64  `json:"at"`  // Unix time in nanoseconds
}

// parsePosition parses a position. It returns nil for an invalid one.
func parsePosition(text string) *position {
	if text == "" || len(text) > maxPosition {
		return nil
	}
	var p position
	if err := json.Unmarshal([]byte(text), &p); err != nil || p.Since < 0 || len(p.Emitted) > maxPositionRecords {
		return nil
	}
	return &p
}

// emittedRecords remembers the last records whose events were emitted, in the order
// of their emission.
type emittedRecords struct {
	list []emittedRecord
	keys map[recordKey]bool
	last time.Time // the latest time of one, since the clock was last set back
}

type emittedRecord struct {
	key recordKey
	at  time.Time
}

// newEmittedRecords returns the records of a position, which may be nil.
func newEmittedRecords(p *position) *emittedRecords {
	r := &emittedRecords{keys: map[recordKey]bool{}}
	if p == nil {
		return r
	}
	for _, stored := range p.Emitted {
		if b, err := hex.DecodeString(stored.Key); err == nil && len(b) == len(recordKey{}) {
			r.add(recordKey(b), time.Unix(0, stored.At), false)
		}
	}
	return r
}

func (r *emittedRecords) has(key recordKey) bool { return r.keys[key] }

// add adds a record. The time of a live record is the current time; an earlier one
// than before shows that the clock was set back.
func (r *emittedRecords) add(key recordKey, at time.Time, isLive bool) {
	if at.After(r.last) || isLive && r.last.Sub(at) > clockStep {
		r.last = at
	}
	r.keys[key] = true
	r.list = append(r.list, emittedRecord{key, at})
	if len(r.list) > maxEmitted {
		delete(r.keys, r.list[0].key)
		r.list = r.list[1:]
	}
}

// position returns the position for parsePosition. Everything before missing was
// emitted; nil means that only late records can be missing.
func (r *emittedRecords) position(missing *time.Time) string {
	since := r.last.Add(-overlap)
	if missing != nil {
		since = *missing
	}
	p := position{Since: max(0, unixNano(since))}
	for i := len(r.list) - 1; i >= 0 && len(p.Emitted) < maxPositionRecords; i-- {
		if !r.list[i].at.Before(since) {
			p.Emitted = append(p.Emitted, storedRecord{hex.EncodeToString(r.list[i].key[:]), r.list[i].at.UnixNano()})
		}
	}
	text, _ := json.Marshal(p) // numbers and strings always encode
	return string(text)
}

// unixNano returns the Unix time in nanoseconds, and 0 for the zero time.
func unixNano(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

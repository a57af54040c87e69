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
	// overlap is how far before the last record that was told of another may
	// still be missing: the log does not hand its records out in their order.
	overlap = 5 * time.Second
	// clockStep is how far back a record must lie for the clock to have been set.
	clockStep = time.Minute
	// maxToldRecords bounds the records that are known to be told of, and
	// maxPositionRecords those that a position names.
	maxToldRecords     = 16384
	maxPositionRecords = 512
	// maxPosition is the longest position that is taken for one, in bytes.
	maxPosition = 64 << 10
)

// A recordKey tells a record of the log from every other one.
type recordKey [8]byte

func keyOf(r *kextlog.Record) recordKey {
	sum := sha256.New()
	for _, part := range []string{r.BootID, strconv.FormatUint(r.Mach, 10), strconv.FormatUint(r.Thread, 10), r.Message} {
		sum.Write([]byte(part + "\x00"))
	}
	return recordKey(sum.Sum(nil)[:8])
}

// A position says what of the log was told of: everything before Mark, and
// these records. The zero time is the beginning of the boot.
type position struct {
	Mark int64          `json:"mark"` // Unix time in nanoseconds
	Told []storedRecord `json:"told,omitempty"`
}

// A storedRecord is one that was told of.
type storedRecord struct {
	Key string `json:"key"` // in hex
	At  int64  `json:"at"`  // Unix time in nanoseconds
}

// parsePosition returns nil for what is no position.
func parsePosition(text string) *position {
	if text == "" || len(text) > maxPosition {
		return nil
	}
	var p position
	if err := json.Unmarshal([]byte(text), &p); err != nil || p.Mark < 0 || len(p.Told) > maxPositionRecords {
		return nil
	}
	return &p
}

// A toldRecord is one that an event was made of.
type toldRecord struct {
	key recordKey
	at  time.Time
}

// toldRecords are the last of these, in the order in which they were told.
type toldRecords struct {
	list []toldRecord
	keys map[recordKey]bool
	last time.Time // the latest moment of one, since the clock was last set back
}

func newToldRecords(p *position) *toldRecords {
	t := &toldRecords{keys: map[recordKey]bool{}}
	if p == nil {
		return t
	}
	for _, stored := range p.Told {
		if b, err := hex.DecodeString(stored.Key); err == nil && len(b) == len(recordKey{}) {
			t.add(recordKey(b), time.Unix(0, stored.At), false)
		}
	}
	return t
}

func (t *toldRecords) has(key recordKey) bool { return t.keys[key] }

// add takes a record. One that comes live says what time it is.
func (t *toldRecords) add(key recordKey, at time.Time, isLive bool) {
	if at.After(t.last) || isLive && t.last.Sub(at) > clockStep {
		t.last = at
	}
	t.keys[key] = true
	t.list = append(t.list, toldRecord{key, at})
	if len(t.list) > maxToldRecords {
		delete(t.keys, t.list[0].key)
		t.list = t.list[1:]
	}
}

// position is the text that parsePosition reads. Before since everything was
// told; nil says that nothing is missing but what comes late.
func (t *toldRecords) position(since *time.Time) string {
	mark := t.last.Add(-overlap)
	if since != nil {
		mark = *since
	}
	p := position{Mark: max(0, unixNano(mark))}
	for i := len(t.list) - 1; i >= 0 && len(p.Told) < maxPositionRecords; i-- {
		if !t.list[i].at.Before(mark) {
			p.Told = append(p.Told, storedRecord{hex.EncodeToString(t.list[i].key[:]), t.list[i].at.UnixNano()})
		}
	}
	text, _ := json.Marshal(p) // numbers and texts always encode
	return string(text)
}

// unixNano is 0 for the zero time.
func unixNano(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

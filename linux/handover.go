//go:build linux

package linux

import (
	"cmp"
	"slices"
	"time"

	"github.com/kmodquery/kmodquery/bpf"
)

// overlapSlack is how far apart two sets of programs, at one hook, may see the
// same call begin.
const overlapSlack = 100 * time.Millisecond

// handoverTime is how long after the older sets were detached something may come
// for the first time that they have seen begin.
const handoverTime = time.Minute

// A handover makes one of what two sets of programs tell of the same attempts:
// a new set is attached before the older one is detached, so both see what
// happens meanwhile, each under a moment of beginning of its own. A thread is in
// one call at a time, which tells what belongs together. Its methods must not be
// called concurrently; those of a nil handover do nothing.
type handover struct {
	until   time.Duration // what begins later, the older set does not know
	spans   map[uint32][]*span
	renamed map[contextID]*span
}

// A span is an attempt as the older set saw it.
type span struct {
	begin, end time.Duration            // end is 0 where its return was not seen
	kinds      map[bpf.Kind]uint64      // of its records, with the set that told of them first
	sets       map[uint64]time.Duration // when each set saw it begin
}

// newHandover returns that to the programs which were attached before a moment of
// the boot clock.
func newHandover(until time.Duration) *handover {
	return &handover{until: until, spans: map[uint32][]*span{}, renamed: map[contextID]*span{}}
}

// ends reports whether nothing follows the record in its attempt.
func ends(r bpf.Record) bool {
	switch r.Kind {
	case bpf.ProcessPath, bpf.ProcessArgs:
		return false
	}
	return r.Attempt == 0 || r.Kind == bpf.SystemCall || r.Kind == bpf.ModuleRequest
}

// merge takes the next record of a set; those of older sets come first. It gives
// the record the names that an older one had for the same, and reports whether
// that has told it already.
func (h *handover) merge(r *bpf.Record, set uint64) (isTold bool) {
	if h == nil {
		return false
	}
	r.Request = h.name(r.RequestTid, r.Request, set)
	r.ParentAttempt = h.name(r.Tid, r.ParentAttempt, set)
	if r.Boot > h.until+handoverTime {
		clear(h.spans)
	}
	begin := cmp.Or(r.Attempt, r.Context)
	if begin == 0 {
		return false
	}
	id := contextID{begin, r.Tid}
	s := h.renamed[id]
	if s == nil {
		if begin > h.until {
			return false
		}
		if s = h.find(r.Tid, begin, set); s == nil {
			s = &span{begin: begin, kinds: map[bpf.Kind]uint64{}, sets: map[uint64]time.Duration{}}
			h.spans[r.Tid] = append(h.spans[r.Tid], s)
		}
		s.sets[set] = begin
		h.renamed[id] = s
	}
	if r.Attempt != 0 {
		r.Attempt = s.begin
	}
	if r.Context != 0 {
		r.Context = s.begin
	}
	teller, isTold := s.kinds[r.Kind]
	if !isTold {
		s.kinds[r.Kind] = set
	}
	if ends(*r) {
		delete(h.renamed, id)
		if s.end == 0 {
			s.end = r.Boot
		}
	}
	return isTold && teller != set
}

func (h *handover) name(tid uint32, begin time.Duration, set uint64) time.Duration {
	if begin == 0 || begin > h.until {
		return begin
	}
	if s := h.find(tid, begin, set); s != nil {
		return s.begin
	}
	return begin
}

// find returns what is known of an attempt that a set saw begin, or nil.
func (h *handover) find(tid uint32, begin time.Duration, set uint64) *span {
	var next *span // the first that begins later
	for _, s := range slices.Backward(h.spans[tid]) {
		if s.sets[set] == begin {
			return s
		}
		if s.begin <= begin {
			if s.sets[set] == 0 && (s.end == 0 || begin <= s.end) {
				return s // the last that had begun is the one that can be under way
			}
			break
		}
		next = s
	}
	if next == nil || next.sets[set] != 0 || next.begin-begin > overlapSlack {
		return nil
	}
	return next
}

//go:build linux

package ebpf

import (
	"cmp"
	"slices"
	"time"

	"github.com/kmodquery/kmodquery/bpf"
)

// callTime is how long after a set's turn began a call may return that an older
// set has seen begin, and not return before it was detached.
const callTime = time.Minute

// A handover makes one of what several sets of programs tell: a new set is
// attached before the older one is detached, so both see what happens meanwhile,
// each under a moment of beginning of its own. Whose turn it was tells of a call;
// what it has missed, another may add. A thread is in one call at a time, which
// tells what belongs together. Its methods must not be called concurrently; those
// of a nil handover do nothing.
type handover struct {
	turns  map[uint64]bpf.Turn
	oldest uint64
	newest uint64
	spans  map[uint32][]*span // by thread, in the order in which they were found
	open   map[spanID]*span
}

type spanID struct {
	contextID
	set uint64
}

// A span is a call, or a moment outside of any, as the sets saw it.
type span struct {
	name       time.Duration            // its beginning, to the set that tells of it
	begin, end time.Duration            // as seen first; end is 0 where its return was not seen
	moment     bpf.Kind                 // of its only record; 0 for a call
	teller     uint64                   // the set that tells of it; 0 while none does
	kinds      map[bpf.Kind]uint64      // of the records that were told, with the set that did
	sets       map[uint64]time.Duration // when each set saw it begin
}

// newHandover returns that of programs with these turns, the oldest first; nil
// where there are none.
func newHandover(turns []bpf.Turn) *handover {
	if len(turns) == 0 {
		return nil
	}
	h := &handover{
		turns: map[uint64]bpf.Turn{}, oldest: turns[0].Set, newest: turns[len(turns)-1].Set,
		spans: map[uint32][]*span{}, open: map[spanID]*span{},
	}
	for _, turn := range turns {
		h.turns[turn.Set] = turn
	}
	return h
}

// isShared reports whether an older set may have seen a call begin that this one
// saw.
func (h *handover) isShared(set uint64, begin time.Duration) bool {
	return set != h.oldest && begin <= h.turns[set].Begin+2*bpf.TurnSlack
}

// momentOf is the kind of a record that is the only one of its attempt, or 0.
func momentOf(r *bpf.Record) bpf.Kind {
	if r.Attempt == 0 || r.Kind == bpf.ModuleRequest {
		return r.Kind
	}
	return 0
}

// merge takes the next record of a set; those of older sets come first. It gives
// the record the names that the set has for the same whose turn it was, and
// reports whether that set tells of it, or has done so. What tells of a process
// is left alone: it is of use to those records of the same set that are told.
func (h *handover) merge(r *bpf.Record, set uint64) (isTold bool) {
	if h == nil || r.Kind == bpf.ProcessPath || r.Kind == bpf.ProcessArgs {
		return false
	}
	turn := h.turns[set]
	begin := cmp.Or(r.Attempt, r.Context)
	if turn.Begin == 0 || turn.End != 0 && begin > turn.End+bpf.TurnSlack {
		return true
	}
	if set == h.newest && r.Boot > turn.Begin+callTime {
		clear(h.spans)
		clear(h.open)
	}
	r.Request = h.name(r.RequestTid, r.Request, set)
	r.ParentAttempt = h.name(r.Tid, r.ParentAttempt, set)
	id := spanID{contextID{begin, r.Tid}, set}
	s := h.open[id]
	if s == nil {
		if s = h.find(r, begin, set); s == nil {
			if set == h.newest && !h.isShared(set, begin) {
				return false
			}
			s = &span{name: begin, begin: begin, moment: momentOf(r), kinds: map[bpf.Kind]uint64{}, sets: map[uint64]time.Duration{}}
			h.spans[r.Tid] = append(h.spans[r.Tid], s)
		}
		if s.moment == momentOf(r) { // not one of several parts of a call
			s.sets[set] = begin
		}
		h.open[id] = s
	}
	if momentOf(r) != 0 || r.Kind == bpf.SystemCall {
		delete(h.open, id)
		if s.end == 0 && (s.moment != 0 || r.Kind == bpf.SystemCall) {
			s.end = r.Boot
		}
	}
	if s.teller == 0 {
		if !turn.Has(begin) {
			return true
		}
		s.teller, s.name = set, begin
	}
	if r.Attempt != 0 || s.moment == 0 {
		r.Attempt = s.name
	}
	told, isTold := s.kinds[r.Kind]
	if !isTold {
		s.kinds[r.Kind] = set
	}
	return isTold && told != set
}

// name is that of a call which a set saw begin.
func (h *handover) name(tid uint32, begin time.Duration, set uint64) time.Duration {
	if begin == 0 {
		return begin
	}
	for _, s := range slices.Backward(h.spans[tid]) {
		if s.sets[set] == begin {
			return s.name
		}
	}
	return begin
}

// find returns what an older set has seen of a call that this one saw begin, or
// nil.
func (h *handover) find(r *bpf.Record, begin time.Duration, set uint64) (found *span) {
	isShared := h.isShared(set, begin)
	// What stands alone may be the rest of a call that began long before.
	if set == h.oldest || !isShared && r.Attempt != 0 {
		return nil
	}
	nearest := bpf.TurnSlack + 1
	for _, s := range slices.Backward(h.spans[r.Tid]) {
		isTaken := s.sets[set] != 0
		if s.moment == momentOf(r) && isTaken || !isShared && (isTaken || s.moment != 0 || s.begin > h.turns[set].Begin) {
			continue
		}
		if distance := s.distance(r, begin); distance < nearest {
			found, nearest = s, distance
		}
	}
	return found
}

// distance is how far from the span a call began that may be the same.
func (s *span) distance(r *bpf.Record, begin time.Duration) time.Duration {
	moment := momentOf(r)
	switch {
	case s.moment != 0 && s.moment != moment || s.moment == 0 && moment == bpf.ModuleRequest:
	case begin < s.begin:
		return s.begin - begin
	case s.end == 0 || begin <= s.end:
		return 0
	case moment != 0:
		return begin - s.end
	}
	return bpf.TurnSlack + 1 // it began after the other had ended
}

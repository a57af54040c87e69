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
	begin, end time.Duration // end is 0 where its return was not seen
	kinds      map[bpf.Kind]bool
}

// newHandover returns that to the programs which were attached before a moment of
// the boot clock.
func newHandover(until time.Duration) *handover {
	return &handover{until: until, spans: map[uint32][]*span{}, renamed: map[contextID]*span{}}
}

// note takes a record of the older set.
func (h *handover) note(r bpf.Record) {
	begin := cmp.Or(r.Attempt, r.Context)
	if h == nil || begin == 0 {
		return
	}
	s := h.latest(r.Tid, begin)
	if s == nil {
		s = &span{begin: begin, kinds: map[bpf.Kind]bool{}}
		h.spans[r.Tid] = append(h.spans[r.Tid], s)
	}
	s.kinds[r.Kind] = true
	if ends(r) {
		s.end = r.Boot
	}
}

// ends reports whether nothing follows the record in its attempt.
func ends(r bpf.Record) bool {
	switch r.Kind {
	case bpf.ProcessPath, bpf.ProcessArgs:
		return false
	}
	return r.Attempt == 0 || r.Kind == bpf.SystemCall || r.Kind == bpf.ModuleRequest
}

func (h *handover) latest(tid uint32, begin time.Duration) *span {
	spans := h.spans[tid]
	for i := len(spans) - 1; i >= 0; i-- {
		if spans[i].begin == begin {
			return spans[i]
		}
	}
	return nil
}

// merge gives a record of the new set the names that the older one had for the
// same, and reports whether the older one has told it already.
func (h *handover) merge(r *bpf.Record) (isTold bool) {
	if h == nil {
		return false
	}
	r.Request = h.name(r.RequestTid, r.Request)
	r.ParentAttempt = h.name(r.Tid, r.ParentAttempt)
	begin := cmp.Or(r.Attempt, r.Context)
	s := h.find(r.Tid, begin)
	if s == nil {
		return false
	}
	if r.Attempt != 0 {
		r.Attempt = s.begin
	}
	if r.Context != 0 {
		r.Context = s.begin
	}
	isTold = s.kinds[r.Kind]
	if ends(*r) {
		delete(h.renamed, contextID{begin, r.Tid})
		if s.end == 0 {
			s.end = r.Boot
		}
	}
	return isTold
}

func (h *handover) name(tid uint32, begin time.Duration) time.Duration {
	if s := h.find(tid, begin); s != nil {
		return s.begin
	}
	return begin
}

// find returns the older set's view of an attempt, or nil.
func (h *handover) find(tid uint32, begin time.Duration) *span {
	if begin == 0 {
		return nil
	}
	id := contextID{begin, tid}
	if s := h.renamed[id]; s != nil {
		return s
	}
	if begin > h.until {
		return nil
	}
	var next *span // the first that begins later
	for _, s := range slices.Backward(h.spans[tid]) {
		if s.begin <= begin {
			if s.end == 0 || begin <= s.end {
				next = s // the last that had begun is the one that can be under way
			}
			break
		}
		next = s
	}
	if next == nil || next.begin-begin > overlapSlack {
		return nil
	}
	h.renamed[id] = next
	return next
}

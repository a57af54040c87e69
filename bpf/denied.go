//go:build linux

package bpf

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/cilium/ebpf"
)

// DeniedCalls identifies system calls that were refused in the same way: the
// same call, by the same user, from the same program, counted by one set of
// programs. It is comparable.
type DeniedCalls struct {
	set uint64
	key moduleDeniedKey
}

// In returns the calls as counted by the set that sent the record at a position.
func (d DeniedCalls) In(p Position) DeniedCalls {
	d.set = p.Set
	return d
}

// noUser is the user of the calls that are counted by system call alone: no user
// has this ID, which setuid(2) refuses.
const noUser = math.MaxUint32

// IsOther reports whether these are the calls whose kind had no room in the map
// of denied calls: only the system call is known.
func (d DeniedCalls) IsOther() bool { return d.key.Uid == noUser }

// counter is the index at which the programs count the others.
func (d DeniedCalls) counter() uint32 {
	return uint32(moduleCounterCOUNTER_DENIED) + uint32(d.key.Call)
}

// UID returns the user ID of the callers, in the initial user namespace.
func (d DeniedCalls) UID() uint32 { return d.key.Uid }

// EUID returns the effective user ID of the callers, in the initial user namespace.
func (d DeniedCalls) EUID() uint32 { return d.key.Euid }

// Call names the system call.
func (d DeniedCalls) Call() string { return callNames[d.key.Call] }

// A DeniedCount is how many denied calls of a kind a set of programs has counted.
type DeniedCount struct {
	DeniedCalls
	// Since distinguishes this count from an earlier one of the same calls, which
	// ForgetDenied ended: it is the boot clock when the count began, or 0 if
	// IsOther.
	Since time.Duration
	Count uint64
}

// rawDeniedCount is the binary form of a DeniedCount.
type rawDeniedCount struct {
	Set, Since uint64
	Key        moduleDeniedKey
	Count      uint64
}

// String returns the count in the form that ParseDeniedCount takes: hexadecimal
// digits.
func (c DeniedCount) String() string {
	raw, _ := binary.Append(nil, binary.BigEndian, rawDeniedCount{c.set, uint64(c.Since), c.key, c.Count}) // it has a fixed size
	return hex.EncodeToString(raw)
}

// ParseDeniedCount is the inverse of String.
func ParseDeniedCount(text string) (DeniedCount, error) {
	var r rawDeniedCount
	raw, err := hex.DecodeString(text)
	if err != nil || len(raw) != binary.Size(r) {
		return DeniedCount{}, fmt.Errorf("parse a count of denied calls: %q is not %d bytes in hexadecimal", text, binary.Size(r))
	}
	_, _ = binary.Decode(raw, binary.BigEndian, &r) // it has the size
	return DeniedCount{DeniedCalls{r.Set, r.Key}, time.Duration(r.Since), r.Count}, nil
}

// DeniedCounts returns every count of denied calls, those of older sets once
// their records were read. The programs send a record of the first call of a
// kind, and of the first after each NextEpoch; they only count the others.
func (p *Programs) DeniedCounts() ([]DeniedCount, error) {
	counts, err := p.deniedCounts()
	if err != nil {
		return nil, err
	}
	p.dropping.Lock()
	defer p.dropping.Unlock()
	for _, older := range p.older {
		counts = slices.AppendSeq(counts, maps.Values(older.denied))
	}
	return counts, nil
}

// deniedCounts reads the counts that are not zero.
func (s *set) deniedCounts() (counts []DeniedCount, err error) {
	if err := s.need(moduleMapDenied, moduleMapCounters); err != nil {
		return nil, fmt.Errorf("count denied calls: %w", err)
	}
	var key moduleDeniedKey
	var calls moduleDeniedCalls
	entries := s.maps[moduleMapDenied].Iterate()
	for entries.Next(&key, &calls) {
		if callNames[key.Call] == "" || key.Uid == noUser {
			continue // no program counts such calls here
		}
		counts = append(counts, DeniedCount{DeniedCalls{s.name.id, key}, time.Duration(calls.SinceNs), calls.Count})
	}
	if err := entries.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return nil, fmt.Errorf("count denied calls: %w", err)
	}
	for _, call := range slices.Sorted(maps.Keys(callNames)) {
		other := DeniedCount{DeniedCalls: DeniedCalls{s.name.id, moduleDeniedKey{Call: call, Uid: noUser, Euid: noUser}}}
		if s.counters != nil { // no call of bpf(2), during which no kprobe runs on this processor
			other.Count = s.counters[other.counter()].Load()
		} else if err := s.maps[moduleMapCounters].Lookup(other.counter(), &other.Count); err != nil {
			return nil, fmt.Errorf("count denied calls: %w", err)
		}
		if other.Count > 0 {
			counts = append(counts, other)
		}
	}
	return counts, nil
}

// AckDenied notes that stored events cover a count. An older set stays pinned
// until all of its counts are covered.
func (p *Programs) AckDenied(c DeniedCount) {
	p.dropping.Lock()
	defer p.dropping.Unlock()
	for _, older := range p.older {
		if older.name.id == c.set && c.Count >= older.denied[c.DeniedCalls].Count {
			delete(older.denied, c.DeniedCalls)
		}
	}
}

// ForgetDenied ends the count of calls, to make room for others, and returns it.
func (p *Programs) ForgetDenied(d DeniedCalls) (uint64, error) {
	var calls moduleDeniedCalls
	denied := p.maps[moduleMapDenied]
	err := denied.LookupAndDelete(d.key, &calls)
	if errors.Is(err, ebpf.ErrNotSupported) { // before 5.14
		if err = denied.Lookup(d.key, &calls); err == nil {
			err = denied.Delete(d.key)
		}
	}
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return 0, fmt.Errorf("forget denied calls: %w", err)
	}
	return calls.Count, nil
}

// NextEpoch makes the programs send a record of the next call of each kind.
func (p *Programs) NextEpoch() {
	p.wanted.Epoch++
	*p.settings = p.wanted
}

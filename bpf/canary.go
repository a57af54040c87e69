//go:build linux

package bpf

import "slices"

// canary is CANARY of record.h.
const canary = 2

// A Canary is a call that Programs.Canary made.
type Canary struct {
	Value uint64
	// Set is the set of programs, and From and End are the ends of its ring of records before
	// the call and after it.
	Set, From, End uint64
	// IsCrowded is whether the ring had little room then.
	IsCrowded bool
}

// IsOf reports whether a record is that of the call.
func (c Canary) IsOf(record *Record, position Position) bool {
	return record.Call != nil && record.Call.Canary == c.Value && position.Set == c.Set && position.Offset > c.From
}

// HasCanary reports whether the programs can recognise a canary: those of a locked kernel
// see no call begin.
func (p *Programs) HasCanary() bool {
	entry, exit := false, false
	for _, a := range p.attached {
		if a.symbol == systemCallPrefix+InitModule {
			isReturn := a.as == asFexit || a.as == asKretprobe
			entry, exit = entry || !isReturn, exit || isReturn
		}
	}
	return entry && exit
}

// Canary runs call, which calls init_module(2) with value, which is not 0, as its third
// argument. If the kernel denies it, the programs send a record with that Canary, and do not
// count the call. Check, NextEpoch and Restore must not be called meanwhile. A call that is made
// after call has returned is an ordinary one.
func (p *Programs) Canary(value uint64, call func(value uint64) error) (Canary, error) {
	c := Canary{Value: value, Set: p.name.id}
	_, c.From, _ = p.records.positions()
	isCrowded := p.records.isCrowded()
	p.wanted.Canary = value
	*p.settings = p.wanted
	err := call(value)
	p.wanted.Canary = 0
	*p.settings = p.wanted
	_, c.End, _ = p.records.positions()
	c.IsCrowded = isCrowded || p.records.isCrowded()
	return c, err
}

// HasRead reports whether every record was read that was made before the call returned.
func (p *Programs) HasRead(c Canary) bool {
	read, _, ok := p.records.positions()
	return ok && read >= c.End
}

// UserCalls counts the denied calls, and the returns that were missed, which any user can
// cause. ForgetDenied makes it smaller. It is 0 if no such calls can keep a hook of init_module
// from running: the kernel keeps few returns for kretprobes.
func (p *Programs) UserCalls() (n uint64) {
	isLimited := slices.ContainsFunc(p.attached, func(a attached) bool {
		return a.symbol == systemCallPrefix+InitModule && a.as == asKretprobe
	})
	if !isLimited {
		return 0
	}
	n = p.counters[moduleCounterCOUNTER_SHED].Load()
	counts, err := p.deniedCounts()
	if err != nil {
		return n // it is no reason to doubt what they record
	}
	for _, c := range counts {
		n += c.Count
	}
	return n
}

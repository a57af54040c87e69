//go:build linux

package bpf

// canary is CANARY of record.h.
const canary = 2

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
// count the call. Check, NextEpoch and Restore must not be called meanwhile.
func (p *Programs) Canary(value uint64, call func() error) error {
	p.wanted.Canary = value
	*p.settings = p.wanted
	err := call()
	p.wanted.Canary = 0
	*p.settings = p.wanted
	_, p.canaryEnd, _ = p.records.positions()
	return err
}

// HasReadCanary reports whether every record was read that was made before the last Canary
// returned.
func (p *Programs) HasReadCanary() bool {
	read, _, ok := p.records.positions()
	return ok && read >= p.canaryEnd
}

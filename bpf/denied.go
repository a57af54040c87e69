//go:build linux

package bpf

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"

	"github.com/cilium/ebpf"
)

// DeniedCalls identifies the system calls that were refused in the same way:
// the same call, by the same user, from the same program. It can be compared
// and be a map's key.
type DeniedCalls struct{ key moduleDeniedKey }

// CountDenied returns how many such calls there were since ForgetDenied, or
// since Open. A record of the first of them is made, and of the first after
// every NextEpoch.
func (p *Programs) CountDenied(d DeniedCalls) (uint64, error) {
	var calls moduleDeniedCalls
	err := p.maps[moduleMapDenied].Lookup(d.key, &calls)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return 0, fmt.Errorf("count denied calls: %w", err)
	}
	return calls.Count, nil
}

// UID is the user who made the calls, in the initial user namespace.
func (d DeniedCalls) UID() uint32 { return d.key.Uid }

// EUID is the effective one.
func (d DeniedCalls) EUID() uint32 { return d.key.Euid }

// Call names the system call.
func (d DeniedCalls) Call() string { return callNames[d.key.Call] }

// String is the calls' identity as ParseDeniedCalls takes it: letters and digits.
func (d DeniedCalls) String() string {
	raw, _ := binary.Append(nil, binary.BigEndian, d.key) // it has a fixed size
	return hex.EncodeToString(raw)
}

// ParseDeniedCalls is String's inverse.
func ParseDeniedCalls(text string) (d DeniedCalls, err error) {
	raw, err := hex.DecodeString(text)
	if err == nil {
		_, err = binary.Decode(raw, binary.BigEndian, &d.key)
	}
	if err != nil {
		return d, fmt.Errorf("read the identity of denied calls: %w", err)
	}
	return d, nil
}

// DeniedKinds lists what CountDenied counts.
func (p *Programs) DeniedKinds() ([]DeniedCalls, error) {
	var kinds []DeniedCalls
	var key moduleDeniedKey
	var calls moduleDeniedCalls
	entries := p.maps[moduleMapDenied].Iterate()
	for entries.Next(&key, &calls) {
		kinds = append(kinds, DeniedCalls{key})
	}
	if err := entries.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return nil, fmt.Errorf("list denied calls: %w", err)
	}
	return kinds, nil
}

// Reported returns what SetReported was last given, by this process or an
// earlier one, since ForgetDenied.
func (p *Programs) Reported(d DeniedCalls) (uint64, error) {
	var count uint64
	err := p.maps[moduleMapReported].Lookup(d.key, &count)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return 0, fmt.Errorf("read reported calls: %w", err)
	}
	return count, nil
}

// ReportedCalls are how many denied calls of a kind, of those that are counted in a
// Period, events stand for that are safe.
type ReportedCalls struct {
	DeniedCalls
	Period string
	Count  uint64
}

// SetReported keeps, beside the count of denied calls, how many are reported,
// unless it knows of more. Of another Period's it keeps nothing.
func (p *Programs) SetReported(r ReportedCalls) error {
	p.counting.Lock()
	defer p.counting.Unlock()
	if r.Period != p.period() {
		return nil
	}
	return r.keep(p.maps[moduleMapReported])
}

func (r ReportedCalls) keep(reported *ebpf.Map) error {
	var count uint64
	err := reported.Lookup(r.key, &count)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("read reported calls: %w", err)
	}
	if count >= r.Count {
		return nil
	}
	if err := reported.Put(r.key, r.Count); err != nil {
		return fmt.Errorf("keep reported calls: %w", err)
	}
	return nil
}

// forgets is what each ForgetDenied adds to the epoch, of which the lower half is
// left to NextEpoch.
const forgets = 1 << 32

// Period names the time since the last ForgetDenied, in which every kind of
// denied calls has been counted on: no other period of any set of programs, of
// this boot or another, has the same name.
func (p *Programs) Period() string {
	p.counting.Lock()
	defer p.counting.Unlock()
	return p.period()
}

func (p *Programs) period() string { return periodOf(p.name, p.wanted.Epoch) }

func periodOf(set setName, epoch uint64) string {
	return fmt.Sprintf("%016x%08x", set.id, epoch/forgets)
}

// inheritAllDenied adds the denied calls that older sets counted, and that no
// event stands for, to those of this one, which counts them alone from now on.
func (p *Programs) inheritAllDenied(sets []setName, reported []ReportedCalls) error {
	// What it has counted so far, others have counted too.
	kinds, err := p.DeniedKinds()
	if err != nil {
		return err
	}
	for _, kind := range kinds {
		if _, err := p.ForgetDenied(kind); err != nil {
			return err
		}
	}
	for _, name := range sets {
		older := set{path: p.pins.of(name)}
		err := older.loadPinnedMaps()
		if err == nil {
			err = errors.Join(keepOlder(name, older.maps, reported), p.inheritDenied(older.maps))
		}
		for _, m := range older.maps {
			m.Close()
		}
		if err != nil {
			p.unattached = append(p.unattached, err)
		}
	}
	return nil
}

// keepOlder keeps what is reported of the calls that an older set counted.
func keepOlder(name setName, older map[string]*ebpf.Map, reported []ReportedCalls) error {
	if older[moduleMapSettings] == nil || older[moduleMapReported] == nil {
		return nil
	}
	var settings moduleReaderSettings
	if err := older[moduleMapSettings].Lookup(uint32(0), &settings); err != nil {
		return fmt.Errorf("read the settings of pinned programs: %w", err)
	}
	for _, r := range reported {
		if r.Period != periodOf(name, settings.Epoch) {
			continue
		}
		if err := r.keep(older[moduleMapReported]); err != nil {
			return err
		}
	}
	return nil
}

// inheritDenied does so for one of them.
func (p *Programs) inheritDenied(older map[string]*ebpf.Map) error {
	denied, reported := older[moduleMapDenied], older[moduleMapReported]
	if denied == nil || reported == nil {
		return nil
	}
	var key moduleDeniedKey
	var calls moduleDeniedCalls
	entries := denied.Iterate()
	for entries.Next(&key, &calls) {
		var told uint64
		if err := reported.Lookup(key, &told); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("read reported calls: %w", err)
		}
		if calls.Count <= told {
			continue
		}
		// First, so that they are not told of again if this process ends here; and
		// what it counts from here on, this one counts too.
		if err := reported.Put(key, uint64(math.MaxUint64)); err != nil {
			return fmt.Errorf("keep reported calls: %w", err)
		}
		own, err := p.CountDenied(DeniedCalls{key})
		if err != nil {
			return err
		}
		if err := p.maps[moduleMapDenied].Put(key, moduleDeniedCalls{Count: own + calls.Count - told}); err != nil {
			return fmt.Errorf("inherit denied calls: %w", err)
		}
	}
	if err := entries.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return fmt.Errorf("list denied calls: %w", err)
	}
	return nil
}

// ForgetDenied makes room for other denied calls and returns how many there
// were. It begins another Period.
func (p *Programs) ForgetDenied(d DeniedCalls) (uint64, error) {
	p.counting.Lock()
	defer p.counting.Unlock()
	p.wanted.Epoch = (p.wanted.Epoch/forgets + 1) * forgets
	if err := p.writeSettings(); err != nil {
		return 0, err
	}
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
	if err := p.maps[moduleMapReported].Delete(d.key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return 0, fmt.Errorf("forget reported calls: %w", err)
	}
	return calls.Count, nil
}

// forgetUncounted forgets what is reported of calls that are not counted any more:
// whoever forgot them has ended in between.
func (p *Programs) forgetUncounted() error {
	var uncounted []moduleDeniedKey
	var key moduleDeniedKey
	var count uint64
	entries := p.maps[moduleMapReported].Iterate()
	for entries.Next(&key, &count) {
		var calls moduleDeniedCalls
		if err := p.maps[moduleMapDenied].Lookup(key, &calls); errors.Is(err, ebpf.ErrKeyNotExist) {
			uncounted = append(uncounted, key)
		}
	}
	if err := entries.Err(); err != nil {
		return fmt.Errorf("list reported calls: %w", err)
	}
	for _, key := range uncounted {
		if err := p.maps[moduleMapReported].Delete(key); err != nil {
			return fmt.Errorf("forget reported calls: %w", err)
		}
	}
	return nil
}

// NextEpoch lets every kind of denied call be told of again.
func (p *Programs) NextEpoch() error {
	p.counting.Lock()
	defer p.counting.Unlock()
	p.wanted.Epoch++
	return p.writeSettings()
}

// readSettings goes on with what an earlier process has counted and begun.
func (p *Programs) readSettings() error {
	var former moduleReaderSettings
	raw := make([]byte, binary.Size(former))
	_, err := p.settings.ReadAt(raw, 0)
	if err == nil {
		_, err = binary.Decode(raw, binary.NativeEndian, &former)
	}
	if err != nil {
		return fmt.Errorf("read the programs' settings: %w", err)
	}
	p.wanted.Epoch, p.wanted.BeginNs = former.Epoch, former.BeginNs
	return nil
}

func (p *Programs) writeSettings() error {
	raw, err := binary.Append(nil, binary.NativeEndian, &p.wanted)
	if err == nil {
		_, err = p.settings.WriteAt(raw, 0)
	}
	if err != nil {
		return fmt.Errorf("write the programs' settings: %w", err)
	}
	return nil
}

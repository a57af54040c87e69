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

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// DeniedCalls identifies the system calls that were refused in the same way:
// the same call, by the same user, from the same program. It can be compared
// and be a map's key.
type DeniedCalls struct{ key moduleDeniedKey }

// nobody is who has made the calls that found no place: no user has this ID, which
// setuid(2) takes for none.
const nobody = math.MaxUint32

// OtherDeniedCalls are, for each system call, the denied ones for whose kinds the
// programs had no place.
func OtherDeniedCalls() []DeniedCalls {
	var others []DeniedCalls
	for _, call := range slices.Sorted(maps.Keys(callNames)) {
		others = append(others, DeniedCalls{moduleDeniedKey{Call: call, Uid: nobody, Euid: nobody}})
	}
	return others
}

// IsOther reports whether it is one of OtherDeniedCalls: nothing is known but the
// system call.
func (d DeniedCalls) IsOther() bool { return d.key.Uid == nobody }

// counter is where the programs count the others.
func (d DeniedCalls) counter() uint32 {
	return uint32(moduleCounterCOUNTER_DENIED) + uint32(d.key.Call)
}

// CountDenied returns how many such calls there were since ForgetDenied, or
// since Open. A record of the first of them is made, and of the first after
// every NextEpoch; of the others, there is none.
func (p *Programs) CountDenied(d DeniedCalls) (uint64, error) {
	if d.IsOther() {
		var raw [8]byte
		if _, err := p.counters.ReadAt(raw[:], int64(d.counter())*int64(len(raw))); err != nil {
			return 0, fmt.Errorf("count denied calls: %w", err)
		}
		return binary.NativeEndian.Uint64(raw[:]), nil
	}
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

// DeniedKinds lists what CountDenied counts, OtherDeniedCalls always among it.
func (p *Programs) DeniedKinds() ([]DeniedCalls, error) {
	kinds := OtherDeniedCalls()
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
	return reportedIn(p.maps[moduleMapReported], d.key)
}

func reportedIn(reported *ebpf.Map, key moduleDeniedKey) (uint64, error) {
	var count uint64
	err := reported.Lookup(key, &count)
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

// An inheritance is what a set of programs goes on with of the one before it.
type inheritance struct {
	period string                     // of that one; "" for none
	told   map[moduleDeniedKey]uint64 // the calls that it counted and that were reported then
}

// CountOf returns up to which of the calls that CountDenied counts a report stands
// for them; false where it is of another Period, and not of the one in which the
// set before this one counted them.
func (p *Programs) CountOf(r ReportedCalls) (count uint64, ok bool) {
	p.counting.Lock()
	defer p.counting.Unlock()
	return p.countOf(r)
}

func (p *Programs) countOf(r ReportedCalls) (count uint64, ok bool) {
	switch r.Period {
	case p.period():
		return r.Count, true
	case p.inherited.period:
		return r.Count - min(r.Count, p.inherited.told[r.key]), true
	}
	return 0, false
}

// SetReported keeps, beside the count of denied calls, how many are reported,
// unless it knows of more. Where CountOf knows of none it keeps nothing.
func (p *Programs) SetReported(r ReportedCalls) error {
	p.counting.Lock()
	defer p.counting.Unlock()
	count, ok := p.countOf(r)
	if !ok {
		return nil
	}
	if known, err := p.Reported(r.DeniedCalls); err != nil || known >= count {
		return err
	}
	if err := p.maps[moduleMapReported].Put(r.key, count); err != nil {
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

// inheritDenied has this set go on with the counts of denied calls, as far as no
// event stands for them, of the one whose turn it is. It leaves that one as it is,
// so that whoever comes after a process that ended here begins anew; when this
// set's turn has begun, nobody asks the others again.
func (p *Programs) inheritDenied(sets []setName, reported []ReportedCalls) error {
	for _, name := range slices.Backward(sets) {
		isItsTurn, err := p.inheritDeniedOf(set{name: name, path: p.pins.of(name)}, reported)
		if isShortage(err) {
			return err // the next Open may
		}
		if err != nil {
			p.unattached = append(p.unattached, err)
		}
		if isItsTurn || err != nil { // it has inherited those of the sets before it
			break
		}
	}
	return nil
}

// inheritDeniedOf does so if the turn of an older set has begun.
func (p *Programs) inheritDeniedOf(older set, reported []ReportedCalls) (isItsTurn bool, err error) {
	defer func() {
		for _, m := range older.maps {
			m.Close()
		}
	}()
	if err := older.loadPinnedMaps(); err != nil {
		return false, err
	}
	settings, err := settingsOf(older.maps)
	if err != nil || settings.BeginNs == 0 {
		return false, err
	}
	return true, p.inheritCounts(older, periodOf(older.name, settings.Epoch), reported)
}

func (p *Programs) inheritCounts(older set, period string, reported []ReportedCalls) error {
	for _, name := range []string{moduleMapDenied, moduleMapReported, moduleMapCounters} {
		if older.maps[name] == nil {
			return fmt.Errorf("inherit denied calls: %s has no map called %s", older.name, name)
		}
	}
	// What this one has counted so far, the other has counted too.
	kinds, err := p.DeniedKinds()
	if err != nil {
		return err
	}
	for _, kind := range kinds {
		if _, err := p.ForgetDenied(kind); err != nil {
			return err
		}
	}
	told := map[moduleDeniedKey]uint64{}
	for _, r := range reported {
		if r.Period == period {
			told[r.key] = max(told[r.key], r.Count)
		}
	}
	untold := func(key moduleDeniedKey, count uint64) (uint64, error) {
		kept, err := reportedIn(older.maps[moduleMapReported], key)
		told[key] = min(count, max(told[key], kept))
		return count - told[key], err
	}
	others := map[moduleSystemCall]uint64{}
	for _, other := range OtherDeniedCalls() {
		var count uint64
		if err := older.maps[moduleMapCounters].Lookup(other.counter(), &count); err != nil {
			return fmt.Errorf("inherit denied calls: %w", err)
		}
		if others[other.key.Call], err = untold(other.key, count); err != nil {
			return err
		}
	}
	var key moduleDeniedKey
	var calls moduleDeniedCalls
	entries := older.maps[moduleMapDenied].Iterate()
	for entries.Next(&key, &calls) {
		count, err := untold(key, calls.Count)
		if err != nil {
			return err
		}
		if count == 0 {
			continue
		}
		err = p.maps[moduleMapDenied].Put(key, moduleDeniedCalls{Count: count})
		if errors.Is(err, unix.E2BIG) { // somebody else has taken its place
			others[key.Call] += count
		} else if err != nil {
			return fmt.Errorf("inherit denied calls: %w", err)
		}
	}
	if err := entries.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return fmt.Errorf("list denied calls: %w", err)
	}
	for _, other := range OtherDeniedCalls() {
		if err := p.maps[moduleMapCounters].Put(other.counter(), others[other.key.Call]); err != nil {
			return fmt.Errorf("inherit denied calls: %w", err)
		}
	}
	p.inherited = inheritance{period, told}
	return nil
}

// ForgetDenied makes room for other denied calls and returns how many there
// were. It begins another Period. OtherDeniedCalls are counted on.
func (p *Programs) ForgetDenied(d DeniedCalls) (uint64, error) {
	p.counting.Lock()
	defer p.counting.Unlock()
	p.wanted.Epoch, p.inherited = (p.wanted.Epoch/forgets+1)*forgets, inheritance{}
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
		if (DeniedCalls{key}).IsOther() {
			continue
		}
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

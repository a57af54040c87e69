//go:build linux

package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"

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
	err := p.maps.Maps[moduleMapDenied].Lookup(d.key, &calls)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return 0, fmt.Errorf("count denied calls: %w", err)
	}
	return calls.Count, nil
}

// ForgetDenied makes room for other denied calls and returns how many there
// were.
func (p *Programs) ForgetDenied(d DeniedCalls) (uint64, error) {
	var calls moduleDeniedCalls
	denied := p.maps.Maps[moduleMapDenied]
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

// NextEpoch lets every kind of denied call be told of again.
func (p *Programs) NextEpoch() error {
	p.wanted.Epoch++
	raw, err := binary.Append(nil, binary.NativeEndian, &p.wanted)
	if err == nil {
		_, err = p.settings.WriteAt(raw, 0)
	}
	if err != nil {
		return fmt.Errorf("write the programs' settings: %w", err)
	}
	return nil
}

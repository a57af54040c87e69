//go:build linux

package bpf

import (
	"errors"
	"fmt"
	"sync"
	"unsafe"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// ErrUnpinned is matched by the error of Check if pins were removed and the programs run.
var ErrUnpinned = errors.New("the programs end with this process")

// ErrChanged is matched by the error of Check if another process changed the memory with which
// the programs decide what to send.
var ErrChanged = errors.New("records may not have been sent")

// ErrMoreHooks is Check's error if all is well and more can be attached by now.
var ErrMoreHooks = errors.New("kprobes are switched on again")

// Check returns an error if a program that Open attached is detached or does not run,
// if another process changed the memory with which the programs decide what to send,
// or if more can be attached by now. Then the caller has to Renew them. If the error
// matches ErrUnpinned, Repin suffices, and if it matches ErrChanged, Restore does. What the kernel does not show is assumed to be well.
// Check and NextEpoch must not run concurrently.
func (p *Programs) Check() error {
	var gone []string
	for _, a := range p.attached {
		if a.isGone() {
			gone = append(gone, a.String())
		}
	}
	isOff := kprobes.isOff()
	switch {
	case len(gone) > 1:
		return fmt.Errorf("attached programs are gone: %s and %d more were detached", gone[0], len(gone)-1)
	case len(gone) == 1:
		return fmt.Errorf("attached programs are gone: %s was detached", gone[0])
	case ftrace.isOff():
		return fmt.Errorf("attached programs are gone: %w", ftrace.off())
	case isOff && !p.withoutKprobes:
		return fmt.Errorf("attached programs are gone: %w", kprobes.off())
	case !isOff && p.withoutKprobes:
		return ErrMoreHooks
	// Root can write the pinned maps with which the programs decide what to send.
	case *p.settings != p.wanted:
		return fmt.Errorf("another process changed the settings of the attached programs: %w", ErrChanged)
	case p.owners.current.Load() != p.name.id, p.owners.oldest.Load() != p.name.id:
		return fmt.Errorf("another process changed the owner of calls: %w", ErrChanged)
	}
	if err := errors.Join(p.records.check(), p.images.check()); err != nil {
		return err
	}
	if p.path != "" && !p.isWhole() {
		return fmt.Errorf("the pinned programs were removed from %s: %w", p.path, ErrUnpinned)
	}
	return nil
}

func (a *attached) String() string { return fmt.Sprintf("%s (%s)", a.symbol, a.as) }

// isGone reports whether the link's descriptor is closed or reused. It returns false
// if that is unknown: for a pinned kprobe without a link, and for a perf event while
// no file can be opened.
func (a *attached) isGone() bool {
	if a.link == nil {
		return false
	}
	id, err := identify(a.link)
	if isShortage(err) {
		return false
	}
	return err != nil || id != a.id
}

// identify returns the kernel's unique ID of a link.
func identify(l link.Link) (uint64, error) {
	info, err := l.Info()
	if err == nil {
		return uint64(info.ID), nil
	}
	// Before 5.15 a kprobe is a perf event without a link.
	event, ok := l.(link.PerfEvent)
	if !ok || !errors.Is(err, link.ErrNotSupported) {
		return 0, fmt.Errorf("identify a link: %w", err)
	}
	file, err := event.PerfEvent()
	if err != nil {
		return 0, fmt.Errorf("open a perf event: %w", err)
	}
	defer file.Close()
	var id uint64
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, file.Fd(), unix.PERF_EVENT_IOC_ID, uintptr(unsafe.Pointer(&id))); errno != 0 {
		return 0, fmt.Errorf("identify a perf event: %w", errno)
	}
	return id, nil
}

// strays are links whose descriptors were closed by other code. The numbers may
// belong to other files by now, so neither Close nor the garbage collector may close
// them.
var strays struct {
	sync.Mutex
	links []link.Link
}

// detach closes the link, unless its descriptor belongs to another file.
func (a *attached) detach() error {
	if a.link == nil {
		return a.probe.Close()
	}
	if !a.isGone() {
		return a.link.Close()
	}
	strays.Lock()
	defer strays.Unlock()
	strays.links = append(strays.links, a.link)
	return nil
}

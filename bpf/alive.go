//go:build linux

package bpf

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"unsafe"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Check looks whether everything that Open attached is still attached and is
// run. Its error says what is not, or that more can be attached by now; then
// only another Open helps. What the kernel does not show is taken to be well.
func (p *Programs) Check() error {
	if p.path != "" {
		if _, err := os.Lstat(p.path); errors.Is(err, os.ErrNotExist) {
			return errors.New("the pinned programs were removed from " + p.path)
		}
	}
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
		return errors.New("kprobes are switched on again")
	}
	return nil
}

func (a *attached) String() string { return fmt.Sprintf("%s (%s)", a.symbol, a.as) }

// isGone reports whether the link's descriptor is not the link's any more. Of a
// pinned kprobe without a link nothing can be known, nor of a perf event while no
// file can be opened.
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

// identify asks the kernel for a number that no other link has.
func identify(l link.Link) (uint64, error) {
	info, err := l.Info()
	if err == nil {
		return uint64(info.ID), nil
	}
	// Before 5.15 a kprobe is a perf event and has no link of its own.
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

// strays are links whose descriptors somebody else closed. The numbers may be
// those of other files by now: neither Close nor the collector may close them.
var strays struct {
	sync.Mutex
	links []link.Link
}

// detach closes the link, unless that would close another file.
func (a *attached) detach() error {
	if a.link == nil {
		return nil
	}
	if !a.isGone() {
		return a.link.Close()
	}
	strays.Lock()
	defer strays.Unlock()
	strays.links = append(strays.links, a.link)
	return nil
}

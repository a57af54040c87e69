//go:build linux

package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	bpflink "github.com/cilium/ebpf/link"
	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery/test/vm/guest"
)

// TestGuestDetachLeavesNothingInTheKernel leaves nothing in the kernel: what no recorder needs any more
// must not cost a load anything.
func TestGuestDetachLeavesNothingInTheKernel(t *testing.T) {
	needPinned(t)
	p := newPost(t)
	p.detach(t) // there is nothing yet
	before := inKernelAtRest(t)
	recorder := p.relieve(t, guestExtension)
	p.awaitActive(t)
	recorder.kill(t)
	left := inKernel(t)
	for _, kind := range []string{"program", "map", "link", "hook"} {
		require.True(t, slices.ContainsFunc(left, func(name string) bool {
			return len(name) > len(kind) && name[:len(kind)] == kind && !slices.Contains(before, name)
		}), "a recorder that was killed leaves no %s: %v", kind, left)
	}
	require.NoError(t, guest.LoadImage(image(t, "dummy"), ""))
	require.NoError(t, guest.Unload("dummy"))
	require.Len(t, p.ask(t, "SELECT eid FROM kernel_module_events WHERE event_name = 'module_load' AND name = 'dummy'"), 1)
	require.Len(t, pinnedSets(t), 1)

	for range 2 { // once more does no harm
		p.detach(t)
		require.Empty(t, pinnedSets(t))
		// The kernel lets go of what nobody holds after a grace period.
		require.Eventually(t, func() bool { return slices.Equal(before, inKernel(t)) }, time.Minute, 100*time.Millisecond,
			"before: %v\nnow: %v", before, inKernel(t))
	}
	require.NoError(t, guest.LoadImage(image(t, "dummy"), ""))
	require.NoError(t, guest.Unload("dummy"))
	require.Len(t, p.ask(t, "SELECT eid FROM kernel_module_events WHERE event_name = 'module_load' AND name = 'dummy'"), 1)
	// Who only asks leaves nothing behind.
	require.Empty(t, pinnedSets(t))
	require.Eventually(t, func() bool { return slices.Equal(before, inKernel(t)) }, time.Minute, 100*time.Millisecond)
}

// inKernelAtRest is inKernel once nothing is going away any more, as what an
// earlier test has left does.
func inKernelAtRest(t *testing.T) (all []string) {
	t.Helper()
	require.Eventually(t, func() bool {
		last := all
		all = inKernel(t)
		return slices.Equal(last, all)
	}, time.Minute, 3*time.Second)
	return all
}

// inKernel lists the BPF programs, maps and links that the kernel has, and the
// functions that run any.
func inKernel(t *testing.T) []string {
	t.Helper()
	var all []string
	programs := 0
	for id, err := ebpf.ProgramGetNextID(0); ; id, err = ebpf.ProgramGetNextID(id) {
		if errors.Is(err, os.ErrNotExist) {
			break
		}
		require.NoError(t, err)
		program, err := ebpf.NewProgramFromID(id)
		if errors.Is(err, os.ErrNotExist) {
			continue // it went meanwhile
		}
		require.NoError(t, err)
		info, err := program.Info()
		require.NoError(t, err)
		all = append(all, fmt.Sprintf("program %d %s", id, info.Name))
		require.NoError(t, program.Close())
		programs++
	}
	for id, err := ebpf.MapGetNextID(0); ; id, err = ebpf.MapGetNextID(id) {
		if errors.Is(err, os.ErrNotExist) {
			break
		}
		require.NoError(t, err)
		all = append(all, fmt.Sprintf("map %d", id))
	}
	links := new(bpflink.Iterator)
	defer links.Close()
	for links.Next() {
		all = append(all, fmt.Sprintf("link %d", links.ID))
	}
	require.NoError(t, links.Err())
	for _, path := range []string{"/sys/kernel/debug/kprobes/list", "/sys/kernel/tracing/enabled_functions"} {
		file, err := os.Open(path)
		require.NoError(t, err)
		for lines := bufio.NewScanner(file); lines.Scan(); {
			all = append(all, "hook "+lines.Text())
		}
		require.NoError(t, file.Close())
	}
	slices.Sort(all)
	return all
}

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

// TestGuestDetachLeavesNothingInTheKernel requires detach to leave no BPF objects in
// the kernel: without a recorder, loads must have no additional cost.
func TestGuestDetachLeavesNothingInTheKernel(t *testing.T) {
	needPinned(t)
	p := newDeployment(t)
	p.detach(t) // nothing is pinned yet
	before := inKernelAtRest(t)
	recorder := p.startRecorder(t, guestExtension)
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
	require.Len(t, p.query(t, "SELECT eid FROM kernel_module_events WHERE event_name = 'module_load' AND name = 'dummy'"), 1)
	require.Len(t, pinnedSets(t), 1)

	for range 2 { // a second time does no harm
		p.detach(t)
		require.Empty(t, pinnedSets(t))
		// The kernel frees unused objects after a grace period.
		require.Eventually(t, func() bool { return slices.Equal(before, inKernel(t)) }, busyLimit, 100*time.Millisecond,
			"before: %v\nnow: %v", before, inKernel(t))
	}
	require.NoError(t, guest.LoadImage(image(t, "dummy"), ""))
	require.NoError(t, guest.Unload("dummy"))
	require.Len(t, p.query(t, "SELECT eid FROM kernel_module_events WHERE event_name = 'module_load' AND name = 'dummy'"), 1)
	// A process that only queries leaves nothing behind.
	require.Empty(t, pinnedSets(t))
	require.Eventually(t, func() bool { return slices.Equal(before, inKernel(t)) }, busyLimit, 100*time.Millisecond)
}

// inKernelAtRest returns inKernel as soon as it is stable: objects of an earlier test
// may still disappear.
func inKernelAtRest(t *testing.T) (all []string) {
	t.Helper()
	require.Eventually(t, func() bool {
		last := all
		all = inKernel(t)
		return slices.Equal(last, all)
	}, busyLimit, 3*time.Second)
	return all
}

// inKernel returns the BPF programs, maps and links of the kernel, and the functions
// that run any.
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
			continue // it was freed meanwhile
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

//go:build linux

package bpf

import (
	"os"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/stretchr/testify/require"
)

// openHere attaches what this kernel takes, in a folder of pins.
func openHere(t *testing.T, path string) *Programs {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root may attach BPF programs")
	}
	p, err := Open(Options{ImageLimit: MaxImage, PinDir: path})
	if err != nil {
		t.Skip("this kernel takes no programs: ", err)
	}
	t.Cleanup(func() { p.Close() })
	if err := p.Unpinned(); err != nil {
		t.Skip("this kernel pins no programs: ", err)
	}
	return p
}

// pinnedSettings are those of a set, nil where it has none yet.
func pinnedSettings(t *testing.T, path string) *moduleReaderSettings {
	t.Helper()
	m, err := ebpf.LoadPinnedMap(path, nil)
	if err != nil {
		return nil
	}
	defer m.Close()
	var settings moduleReaderSettings
	require.NoError(t, m.Lookup(uint32(0), &settings))
	return &settings
}

// A set whose turn it is takes images, though the one before it is not detached
// yet.
func TestASetHasItsLimitBeforeItsTurn(t *testing.T) {
	path := onBPFFS(t)
	first := openHere(t, path)
	require.NoError(t, first.maps[moduleMapCounters].Put(uint32(moduleCounterCOUNTER_LOST), uint64(7)))
	require.NoError(t, first.Close())
	was := build
	build = "another"
	defer func() { build = was }()

	opened := make(chan *Programs)
	go func() {
		defer close(opened)
		if p, err := Open(Options{ImageLimit: MaxImage, PinDir: path}); err == nil {
			opened <- p
		}
	}()
	var seen *moduleReaderSettings
	require.Eventually(t, func() bool {
		sets, err := os.ReadDir(path)
		require.NoError(t, err)
		for _, entry := range sets {
			if name, ok := parseSetName(entry.Name()); ok && name.id > first.name.id {
				seen = pinnedSettings(t, (&pins{path: path}).of(name, pinnedMaps, moduleMapSettings))
			}
		}
		return seen != nil
	}, time.Minute, time.Millisecond)
	second := <-opened
	require.NotNil(t, second)
	require.Len(t, second.turns, 2)
	require.EqualValues(t, MaxImage, seen.ImageLimit)
	counters, err := second.Counters()
	require.NoError(t, err)
	require.Equal(t, map[uint64]uint64{first.name.id: 7, second.name.id: 0}, counters.Lost)

	// Neither saw anything: the older one is let go of all the same.
	second.SetDeadline(time.Now().Add(2 * afterRetirement))
	_, _, err = second.Read()
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.True(t, second.Release(Mark{}, Mark{}, Mark{}))
	left, err := second.pins.sets()
	require.NoError(t, err)
	require.Equal(t, []setName{second.name}, left)
	require.NoError(t, second.Close())
}

// What is pinned is taken over, unless it is not trusted.
func TestOpenAnew(t *testing.T) {
	path := onBPFFS(t)
	require.NoError(t, openHere(t, path).Close())
	_, err := Detach(path)
	require.NoError(t, err)
	kernel, err := btf.LoadKernelSpec()
	require.NoError(t, err)
	again := func(anew bool) *Programs {
		p := &Programs{}
		t.Cleanup(func() { p.Close() })
		require.NoError(t, p.openSet(Options{PinDir: path, Anew: anew}, kernel, _ModuleBytes, []hook{onlyTracepoint("sched_process_exit")}))
		require.NoError(t, p.Unpinned())
		return p
	}
	first := again(false)
	require.NoError(t, first.Close())
	second := again(false)
	require.Equal(t, first.name, second.name)
	require.NoError(t, second.Close())
	third := again(true)
	require.Greater(t, third.name.id, second.name.id)
	require.Len(t, third.older, 1)
	require.NoError(t, third.Close())
}

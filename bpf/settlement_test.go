//go:build linux

package bpf

import (
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"github.com/stretchr/testify/require"
)

// addSet pins the rings of a set, each with the numbers 0 to 4 in it.
func addSet(t *testing.T, p *pins, id uint64) setName {
	t.Helper()
	name := setName{layout: layout, digest: "0", id: id}
	require.NoError(t, os.Mkdir(p.of(name), 0o700))
	require.NoError(t, os.Mkdir(p.of(name, pinnedMaps), 0o700))
	for _, ring := range []string{moduleMapRecords, moduleMapImages} {
		m, put := newProducer(t)
		for n := range uint64(5) {
			put(n, 16)
		}
		require.NoError(t, m.Pin(p.of(name, pinnedMaps, ring)))
	}
	return name
}

// left are the numbers that a pinned ring holds.
func left(t *testing.T, p *pins, name setName, ring string) []uint64 {
	t.Helper()
	m, err := ebpf.LoadPinnedMap(p.of(name, pinnedMaps, ring), nil)
	require.NoError(t, err)
	defer m.Close()
	list, _ := numbers(t, open(t, m))
	return list
}

// TestSettlementIsFinished ends the process after each step of a settlement.
func TestSettlementIsFinished(t *testing.T) {
	require.NoError(t, rlimit.RemoveMemlock())
	for _, steps := range []struct {
		name string
		do   func(t *testing.T, p *pins, older, set setName)
	}{
		{"begun", func(*testing.T, *pins, setName, setName) {}},
		{"released", func(t *testing.T, p *pins, _, set setName) {
			require.NoError(t, p.skip(set, moduleMapRecords, 48))
		}},
		{"half removed", func(t *testing.T, p *pins, older, _ setName) {
			require.NoError(t, os.Remove(p.of(older, pinnedMaps, moduleMapRecords)))
		}},
		{"removed", func(t *testing.T, p *pins, older, _ setName) {
			require.NoError(t, os.RemoveAll(p.of(older)))
		}},
	} {
		t.Run(steps.name, func(t *testing.T) {
			p, _, err := listPins(onBPFFS(t))
			require.NoError(t, err)
			defer p.Close()
			older, set, younger := addSet(t, p, 1), addSet(t, p, 2), addSet(t, p, 3)
			require.NoError(t, p.begin(settlement{set: 2, records: 48, images: 72}))
			steps.do(t, p, older, set)
			sets, err := p.sets()
			require.NoError(t, err)
			require.Equal(t, []setName{set, younger}, sets)
			require.Equal(t, []uint64{2, 3, 4}, left(t, p, set, moduleMapRecords))
			require.Equal(t, []uint64{3, 4}, left(t, p, set, moduleMapImages))
			require.Len(t, left(t, p, younger, moduleMapRecords), 5)
			entries, err := os.ReadDir(p.path)
			require.NoError(t, err)
			require.Len(t, entries, 2)
		})
	}
}

func TestParseSettlement(t *testing.T) {
	want := settlement{set: 1 << 60, records: 5, images: 1<<64 - 1}
	got, ok := parseSettlement(want.String())
	require.True(t, ok)
	require.Equal(t, want, got)
	for _, text := range []string{"", settled, want.String() + "0", "v1_0_0", settled + "1_2_3"} {
		_, ok := parseSettlement(text)
		require.False(t, ok, text)
	}
}

func TestNewSetIDIsGreater(t *testing.T) {
	ahead := uint64(1<<64 - 2) // of any clock
	require.Equal(t, ahead+1, newSetID([]setName{{id: ahead}, {id: 4}}))
	require.NotZero(t, newSetID(nil))
}

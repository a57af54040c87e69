package views

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

func TestParseVmallocinfo(t *testing.T) {
	regions, err := parseVmallocinfo(t.Context(), strings.NewReader(
		"0xffffa5c640000000-0xffffa5c640005000   20480 dup_task_struct+0x5e/0x1d0 pages=4 vmalloc N0=4\n"+
			"0xffffffffc02c6000-0xffffffffc02cb000   20480 load_module+0xd97/0x2630 pages=4 vmalloc N0=4\n"+
			"0x00000000f90acb8c-0x000000009edf68b6    8192 move_module+0x5b/0xe0 pages=1 vmalloc N0=1\n"+
			"0xffffffffc0100000-0xffffffffc0102000    8192 execmem_alloc_rw+0x13/0x60 pages=1 vmalloc N0=1\n"+
			"0xffffffffc0200000-0xffffffffc0401000 2101248 execmem_alloc+0xdd/0x1c0 pages=512 vmalloc N0=512\n"+
			"0x00000000f90acb8c-0x000000009edf68b6    8192 bpf_jit_binary_alloc+0x5b/0xe0 pages=1 vmalloc N0=1\n"+
			"0x00000000471d19b4-0x00000000000d6a5d   20480 unpurged vm_area\n"+
			"0x0-0x0 many load_module+0x1/0x2 pages=1\n"+
			"0x0-0x0 4096 load_module+0x1/0x2 pages=1\n"+
			"load_module load_module load_module pages=1\n\n"), 4096)
	require.NoError(t, err)
	require.Equal(t, []region{
		{address: 0xffffffffc02c6000, size: 16384}, {size: 4096}, {address: 0xffffffffc0100000, size: 4096, shared: true},
	}, regions)
}

func TestMemory(t *testing.T) {
	const base = 0xffffffffc0000000
	m := newMemory([]region{
		{address: base + 0x6000, size: 0x1000}, {address: base, size: 0x2000}, {address: base + 0x3000, size: 0x2000},
		{address: base + 0x9000, size: 0x1000, shared: true},
	})
	require.True(t, m.hasAddresses())
	for address, isThere := range map[uint64]bool{
		base - 1: false, base + 0x2000: false, base + 0x5fff: false, base + 0x6fff: true, base + 0x7000: false,
	} {
		_, ok := m.at(address)
		require.Equal(t, isThere, ok, "%x", address)
	}
	require.True(t, m.own(base+0x6800, "dummy"))
	require.EqualValues(t, 0x1000, m.of("dummy"))
	nameless := func(address uint64, size int64) kmodquery.Module {
		return kmodquery.Module{Address: new(int64(address)), Size: &size, Views: []string{kmodquery.ViewVmallocinfo}}
	}
	require.Equal(t, []kmodquery.Module{nameless(base, 0x4000)}, m.free(4096, false), "neighbours are one module")
	require.Equal(t, []kmodquery.Module{nameless(base, 0x4000), nameless(base+0x9000, 0x1000)}, m.free(4096, true))

	hashed := newMemory([]region{{size: 0x1000}, {size: 0x2000}})
	require.False(t, hashed.hasAddresses())
	require.False(t, hashed.own(0, "x"))
	require.Empty(t, hashed.free(4096, true))
	require.False(t, newMemory(nil).own(base, "x"))
}

func TestExcess(t *testing.T) {
	regions := []region{{size: 0x1000}, {size: 0x2000}}
	require.EqualValues(t, 0x1000, excess(regions, []kmodquery.Module{{Size: new(int64(0x2000))}, {}}))
	require.Zero(t, excess(regions, []kmodquery.Module{{Size: new(int64(0x3000))}}))
	require.Zero(t, excess(regions, []kmodquery.Module{{Size: new(int64(0x4000))}}))
	require.Zero(t, excess(append(regions, region{size: 0x1000, shared: true}), nil), "a shared region may belong to other code")
	require.Zero(t, excess(nil, nil))
}

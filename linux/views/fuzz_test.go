package views

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
)

func FuzzListed(f *testing.F) {
	f.Add([]byte("ext4 1105920 1 - Live 0xffffffffc09e2000\ncrc16 12288 2 ext4,[permanent], Loading 0x0 (POE+)\n"))
	f.Add([]byte("a\nb 1 0 - Live 0x0\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		modules, _, err := parseListed(t.Context(), bytes.NewReader(b), nil, nil)
		require.NoError(t, err)
		seen := map[string]bool{}
		for _, m := range modules {
			require.NotEmpty(t, m.Name)
			require.LessOrEqual(t, len(m.Name), maxName)
			require.True(t, bytes.Contains(b, []byte(m.Name)))
			require.NotNil(t, m.Size)
			require.False(t, seen[m.Name])
			seen[m.Name] = true
		}
		slow, _, err := parseListed(t.Context(), chunked{bytes.NewReader(b), 7}, nil, nil)
		require.NoError(t, err)
		require.Equal(t, modules, slow)
	})
}

func FuzzMentions(f *testing.F) {
	f.Add([]byte("ffffffffc02c6000 t x\t[dummy]\nffffffffc0300000 t y\t[bpf]\nffffffffc0300000 t y\t[__builtin__ftrace]\n"))
	f.Add([]byte("init_module [ghost]\nffffffffc0000004 x [ghost]\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, open := range []string{"\t[", " ["} {
			visited := map[string]uint64{}
			mentions, err := parseMentions(t.Context(), bytes.NewReader(b), open, true, func(name string, address uint64) {
				require.NotZero(t, address)
				if lowest, ok := visited[name]; !ok || address < lowest {
					visited[name] = address
				}
			}, func([]byte) bool { return true })
			require.NoError(t, err)
			for name, m := range mentions {
				require.True(t, isModule([]byte(name)))
				require.Equal(t, name, m.name)
				require.True(t, bytes.Contains(b, []byte(open+name+"]")))
				require.Equal(t, visited[name], m.first)
			}
		}
	})
}

func FuzzVmallocinfo(f *testing.F) {
	f.Add([]byte("0xffffffffc02c6000-0xffffffffc02cb000   20480 load_module+0xd97/0x2630 pages=4 vmalloc N0=4\n"))
	f.Add([]byte("0xffffffffc0100000-0xffffffffc0102000    8192 execmem_alloc_rw+0x13/0x60 pages=1\n0x1-0x2 99999999999999999999 load_module\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		regions, err := parseVmallocinfo(t.Context(), bytes.NewReader(b), 4096)
		require.NoError(t, err)
		m := newMemory(regions)
		for _, r := range regions {
			require.Positive(t, r.size)
			require.True(t, r.address == 0 || r.address >= kernelSpace)
			m.own(r.address, "x")
		}
		m.free(4096, true)
		excess(regions, nil)
	})
}

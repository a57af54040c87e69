//go:build linux

package ondisk

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func FuzzModulesDep(f *testing.F) {
	f.Add("kernel/drivers/net/dummy.ko.xz: kernel/x.ko\nupdates/a-b.ko:\n/abs/c.ko.zst:\n")
	f.Add(":\n.ko:\n\xff.ko: \n")
	f.Fuzz(func(t *testing.T, text string) {
		for name, path := range parseModulesDep(strings.NewReader(text)) {
			require.NotEmpty(t, name)
			require.NotContains(t, name, "-")
			require.Contains(t, text, path)
		}
	})
}

func FuzzDiversions(f *testing.F) {
	f.Add("/bin/sh\n/bin/sh.distrib\ndash\n/opt/a.ko\n/opt/b.ko\n:\n")
	f.Add("/opt/a.ko\n/opt/b.ko")
	f.Fuzz(func(t *testing.T, text string) {
		diversions, err := parseDiversions(strings.NewReader(text))
		if err != nil {
			return
		}
		for from, by := range diversions {
			require.Contains(t, text, from)
			require.Contains(t, text, by.to)
			require.Contains(t, text, by.pack)
		}
	})
}

func FuzzDesc(f *testing.F) {
	f.Add("%NAME%\nlinux\n\n%VERSION%\n6.12.1.arch1-1\n")
	f.Add("%NAME%")
	f.Fuzz(func(t *testing.T, text string) { require.Contains(t, text, parseDesc(strings.NewReader(text))) })
}

func FuzzList(f *testing.F) {
	f.Add("/.\n/lib/modules/1/kernel/a.ko.xz\n/usr/share/doc/x.kombu\n")
	f.Add("%FILES%\nusr/lib/modules/1/kernel/dummy.ko.zst\n")
	path := filepath.Join(f.TempDir(), "list")
	f.Fuzz(func(t *testing.T, text string) {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		_ = eachModule(path, func(module string) {
			require.Contains(t, text, module)
			require.True(t, isConfig(module) || strings.Contains(module, ".ko"))
		})
	})
}

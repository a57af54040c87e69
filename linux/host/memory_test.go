//go:build linux

package host

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMemoryLimit(t *testing.T) {
	const unit = "/system.slice/kmodquery.service"
	for name, test := range map[string]struct {
		groups string
		files  map[string]string
		want   int64
	}{
		"no control groups": {"", nil, 0},
		"no limit": {"0::" + unit + "\n", map[string]string{
			"sys/fs/cgroup" + unit + "/memory.max": "max\n", "sys/fs/cgroup" + unit + "/memory.high": "max\n"}, 0},
		"the unit's": {"0::" + unit + "\n", map[string]string{
			"sys/fs/cgroup" + unit + "/memory.max": "536870912\n", "sys/fs/cgroup/system.slice/memory.max": "max\n"}, 512 << 20},
		"that of a group above it": {"0::" + unit + "\n", map[string]string{
			"sys/fs/cgroup" + unit + "/memory.max": "536870912\n", "sys/fs/cgroup/system.slice/memory.max": "1000\n"}, 1000},
		"memory.high": {"0::" + unit + "\n", map[string]string{
			"sys/fs/cgroup" + unit + "/memory.max": "536870912\n", "sys/fs/cgroup" + unit + "/memory.high": "1000\n"}, 1000},
		// A container without a cgroup namespace has its own group mounted at the root.
		"a container":           {"0::/docker/1234\n", map[string]string{"sys/fs/cgroup/memory.max": "1000\n"}, 1000},
		"outside the namespace": {"0::/../other\n", map[string]string{"sys/fs/cgroup/other/memory.max": "1000\n"}, 1000},
		"version 1": {"12:pids:/a\n9:cpu,memory:/a/b\n0::/a\n", map[string]string{
			"sys/fs/cgroup/memory/a/b/memory.limit_in_bytes": "9223372036854771712\n", "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "1000\n",
			"sys/fs/cgroup/pids/a/memory.limit_in_bytes": "1\n"}, 1000},
		"version 1 without a limit": {"9:memory:/\n", map[string]string{"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, 0},
		"nonsense":                  {"x\n:\n0::\n1:memory\n", map[string]string{"sys/fs/cgroup/memory.max": "-5\n", "sys/fs/cgroup/memory.high": "1e3\n"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			files := map[string]string{"proc/self/cgroup": test.groups}
			for path, text := range test.files {
				files[path] = text
			}
			for path, text := range files {
				path = filepath.Join(root, path)
				require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
				require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
			}
			require.Equal(t, test.want, MemoryLimit(root))
		})
	}
	require.Zero(t, MemoryLimit(t.TempDir()))
}

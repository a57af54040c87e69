//go:build linux

package e2e

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery/test/kmod"
	"github.com/kmodquery/kmodquery/test/vm/guest"
)

// TestGuestSignaturesTellLoadsApart loads a module in an honest and in suspicious ways, and
// requires the findings of each besides TRC-1017, and its one row of kernel_module_loads.
// TestGuestReportsALoadInsideALoad has those of a load by code in the kernel.
func TestGuestSignaturesTellLoadsApart(t *testing.T) {
	guest.Only(t)
	elsewhere := func(t *testing.T, content []byte) *handed { return handFile(t, content, "/run", "dummy.ko", "tmpfs") }
	of := func(name string) func(t *testing.T) {
		a := attempts[slices.IndexFunc(attempts, func(a attempt) bool { return a.name == name })]
		return func(t *testing.T) { require.NoError(t, a.prepare(t, "dummy").load("")) }
	}
	// Other tests may have loaded other modules of its name.
	require.NoError(t, guest.LoadImage(image(t, "dummy"), ""))
	require.NoError(t, guest.Unload("dummy"))
	begin := latest(t)
	for _, test := range []struct {
		name string
		load func(t *testing.T)
		want []string
	}{
		{"by modprobe", func(t *testing.T) { require.NoError(t, exec.CommandContext(t.Context(), "modprobe", "dummy").Run()) }, nil},
		{"from a file elsewhere", func(t *testing.T) { require.NoError(t, insmod(elsewhere(t, image(t, "dummy")).path)) }, []string{"KMQ-1002"}},
		{"without a signature", func(t *testing.T) {
			unsigned, err := kmod.Strip(image(t, "dummy"))
			require.NoError(t, err)
			// Bytes that no test has loaded before.
			unsigned = append(unsigned, time.Now().Format(time.RFC3339Nano)...)
			require.NoError(t, insmod(elsewhere(t, unsigned).path))
		}, []string{"KMQ-1001", "KMQ-1002", "KMQ-1014"}},
		{"from a memfd", of("a memfd"), []string{"KMQ-1003"}},
		{"from a deleted file", of("a deleted file"), []string{"KMQ-1003"}},
		{"from the memory of a program", of("memory"), []string{"KMQ-1016"}},
		// The kernel does not check the signature then.
		{"by force", func(t *testing.T) {
			h := elsewhere(t, image(t, "dummy"))
			h.flags = unix.MODULE_INIT_IGNORE_VERMAGIC | unix.MODULE_INIT_IGNORE_MODVERSIONS
			_ = h.load("") // whether the kernel permits it is no matter
		}, []string{"KMQ-1001", "KMQ-1002", "KMQ-1015"}},
		{"by a program in a folder of its user", func(t *testing.T) {
			path, err := exec.LookPath("kmod")
			require.NoError(t, err)
			program, err := os.ReadFile(path)
			require.NoError(t, err)
			require.NoError(t, os.MkdirAll("/home/user", 0o755))
			require.NoError(t, os.WriteFile("/home/user/insmod", program, 0o755))
			require.NoError(t, exec.CommandContext(t.Context(), "/home/user/insmod", elsewhere(t, image(t, "dummy")).path).Run())
		}, []string{"KMQ-1002", "KMQ-1009"}},
		{"from a container", func(t *testing.T) {
			group := makeGroup(t, "/sys/fs/cgroup", "system.slice/docker-"+containerID+".scope")
			castContainer(t, group, "pivot_root", elsewhere(t, image(t, "dummy")).path).load(t)
		}, []string{"KMQ-1002", "KMQ-1008"}},
		{"by a user without the right", func(t *testing.T) {
			require.NoError(t, ordinary(cast(t, "flood", "1")).Run())
		}, []string{"KMQ-1013"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := latest(t)
			test.load(t)
			defer guest.Unload("dummy")
			rows := query(t, "SELECT DISTINCT signature_id FROM kernel_module_findings WHERE eid > %d AND signature_id != 'TRC-1017'", before)
			require.ElementsMatch(t, test.want, column(rows, "signature_id"))

			loads := query(t, "SELECT * FROM kernel_module_loads WHERE event_eid > %d", before)
			rows = query(t, "SELECT DISTINCT signature_id FROM kernel_module_findings WHERE eid > %d ORDER BY signature_id", before)
			if test.name == "by a user without the right" {
				require.NotEmpty(t, loads)
				for _, load := range loads {
					require.Equal(t, []string{"denied", "EPERM", "", "1"}, []string{load["outcome"], load["error"], load["user_name"], load["unprivileged"]}, "/etc/passwd has no such user")
					require.Contains(t, load["findings"], "KMQ-1013")
				}
				return
			}
			require.Len(t, loads, 1)
			load := loads[0]
			if test.name != "by force" {
				require.Equal(t, "loaded", load["outcome"])
			}
			require.Equal(t, load["outcome"], load["final_outcome"])
			require.Equal(t, strings.Join(column(rows, "signature_id"), ","), load["findings"])
			require.Equal(t, []string{"dummy", "root"}, []string{load["name"], load["user_name"]})
			require.Contains(t, load["sources"], "ebpf")
		})
	}
	rows := query(t, "SELECT name, path, eid FROM kernel_module_loads WHERE event_eid > %d AND outcome = 'loaded' AND coalesce(unloaded_time, '') = ''", begin)
	require.Empty(t, rows, "each was unloaded")

	for _, test := range []struct {
		image  []byte
		params string
		want   map[string]string
	}{
		{image(t, "dummy")[:1000], "", map[string]string{"outcome": "rejected", "error": "ENOEXEC"}},
		{image(t, "nbd"), "max_part=-1", map[string]string{"outcome": "init_failed", "error": "EINVAL"}},
	} {
		before := latest(t)
		require.Error(t, guest.LoadImage(test.image, test.params))
		require.Equal(t, []map[string]string{test.want}, query(t, "SELECT outcome, error FROM kernel_module_loads WHERE event_eid > %d", before))
	}
}

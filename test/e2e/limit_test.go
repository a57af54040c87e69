//go:build linux

package e2e

import (
	"os"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery/test/suite"
	"github.com/kmodquery/kmodquery/test/vm/guest"
)

// TestGuestHashesFilesBeyondTheImageLimit runs a second extension with an image limit
// below the size of a module.
func TestGuestHashesFilesBeyondTheImageLimit(t *testing.T) {
	guest.Only(t)
	dir, err := os.MkdirTemp("/run", "limit")
	require.NoError(t, err)
	limited, err := startOsquery(dir, "--image-limit", "1000")
	require.NoError(t, err)
	defer limited.host.Close()
	require.NoError(t, limited.awaitStarted())
	for _, a := range attempts {
		if !suite.Long() && !slices.Contains([]string{"a file", "a compressed file", "memory"}, a.name) {
			continue // TestGuestEveryColumnOfEveryWayToLoad has the others without a limit
		}
		t.Run(a.name, func(t *testing.T) {
			handed := a.prepare(t, "dummy")
			before := limited.latest(t)
			require.NoError(t, handed.load(""))
			defer guest.Unload("dummy")
			rows := limited.since(t, before)
			require.Equal(t, a.events, column(rows, "event_name"))
			for _, row := range rows {
				want := map[string]string{"name": "dummy", "signature_status": "valid", "size": describe(handed)["size"]}
				if a.origin == "file" {
					want = imageInfo(t, handed.bytes, image(t, "dummy"), "valid")
					want["hash_source"] = "file"
					require.Empty(t, row["missing"])
				} else {
					require.Empty(t, row["sha256"])
					require.Empty(t, row["image_sha256"])
					require.Empty(t, row["hash_source"])
					requireMissing(t, row, "sha256", "image_sha256", "signer", "vermagic")
				}
				requireColumns(t, want, row)
			}
		})
	}

	// In the container the path is another file.
	t.Run("a container", func(t *testing.T) {
		if !suite.All() {
			t.Skip("make test-all looks up the file in a container")
		}
		module := handFile(t, image(t, "dummy"), "/run", "dummy.ko", "tmpfs")
		other := handFile(t, image(t, "nbd"), "/", "payload.ko", "rootfs")
		group := makeGroup(t, "/sys/fs/cgroup", "system.slice/docker-"+containerID+".scope")
		container := castContainer(t, group, "pivot_root", module.path)
		before := limited.latest(t)
		container.load(t)
		rows := limited.since(t, before)
		require.Equal(t, byFile, column(rows, "event_name"))
		for _, row := range rows {
			require.Equal(t, other.path, row["path"])
			if row["sha256"] == "" {
				requireMissing(t, row, "sha256", "image_sha256")
				continue
			}
			requireColumns(t, with(imageInfo(t, module.bytes, module.bytes, "valid"), "hash_source", "file"), row)
		}
	})
}

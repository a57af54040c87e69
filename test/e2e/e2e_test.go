//go:build linux

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery/test/vm"
	"github.com/kmodquery/kmodquery/test/vm/guest"
)

// guestExtension is where the extension lies in the guest: root's, and not in a
// sticky folder, as osqueryd asks of it.
const guestExtension = "/usr/lib/kmodquery/kmodquery.ext"

// guestDisk is the image of an ext4 filesystem in the guest.
const guestDisk = "/root/disk.ext4"

func TestMain(m *testing.M) {
	if os.Getenv(pinnedEnv) == "" {
		// Each test has a recorder and a store of its own, and would find in it what
		// another one's programs saw.
		os.Setenv("KMODQUERY_PIN_DIR", "none")
	}
	if role := os.Getenv(roleEnv); role != "" {
		os.Exit(play(role))
	}
	if err := becomeSystemd(); err != nil {
		fmt.Fprintln(os.Stderr, err) // and the guest's own init tells on
	}
	guest.Main(m)
}

// buildExtension builds the extension for an architecture, with further flags
// of go build.
func buildExtension(t *testing.T, arch vm.Arch, flags ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kmodquery.ext")
	require.NoError(t, vm.Build(t.Context(), arch, "../../extension", path, flags...))
	return path
}

// TestKernels runs this package's guest tests and scripts on the kernels of the
// matrix.
func TestKernels(t *testing.T) {
	for _, kernel := range vm.Matrix() {
		t.Run(kernel.String(), func(t *testing.T) {
			t.Parallel()
			files := map[string]string{
				guestExtension:   buildExtension(t, kernel.Arch),
				"/root/testdata": abs(t, "testdata"),
				"/root/packs":    abs(t, "../../packs"),
			}
			if kernel.Arch == vm.AMD64 {
				files[loader386] = build386(t)
			}
			vm.Test(t, kernel, guestPattern(kernel), vm.Options{
				Modules: append([]string{"nbd", "tcp_nv", "tcp_illinois", "overlay", "brd", "af_alg", "romfs", large}, unseen...),
				Files:   files,
				Ext4:    guestDisk,
				Env:     []string{fullEnv + "=" + os.Getenv(fullEnv)},
				// Unloading waits for RCU; without this a storm is a breeze.
				Cmdline: []string{"rcupdate.rcu_expedited=1"},
				Busy:    true,
				Timeout: 40 * time.Minute,
			})
		})
	}
}

func abs(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.Abs(path)
	require.NoError(t, err)
	return path
}

// fullEnv asks for all that CI has not the time for.
const fullEnv = "FULL"

// often is how often a guest's test does what it does again and again: a fifth of
// the times that it is meant to, which is what CI has the time for, unless FULL=1
// asks for all of them.
func often(times int) int {
	if os.Getenv(fullEnv) != "" {
		return times
	}
	return times / 5
}

// isAnEnd reports whether a kernel is the oldest or the newest. With FULL=1 all
// count as such.
func isAnEnd(kernel string) bool {
	return kernel == vm.Oldest().String() || kernel == vm.Newest().String() || os.Getenv(fullEnv) != ""
}

// guestPattern selects the tests of a kernel: all of the oldest and the newest, and of
// those between them, for which CI has not the time, the tests of what hooks and
// views give. FULL=1 asks for all, GUEST selects by hand.
func guestPattern(kernel vm.Kernel) string {
	switch pattern := os.Getenv("GUEST"); {
	case pattern != "":
		return pattern
	case isAnEnd(kernel.String()):
		return "^TestGuest"
	}
	return "^TestGuest(32BitLoader|Autoload|Container|Denied.*|EveryColumn|Evidence|Failures|Loader|LongParams|MissedReturns|ParamsThatChange|Scripts|Signature|Storm|Views)$"
}

//go:build linux

package e2e

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery/test/suite"
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
	guest.Init()
	if err := raiseParallel(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	code := m.Run()
	if err := vm.RemoveBuilds(); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

// raiseParallel lets more tests run at a time than the host has processors, unless
// the command line says how many: most of them wait for a guest to get a processor.
func raiseParallel() error {
	flag.Parse()
	isSet := false
	flag.Visit(func(f *flag.Flag) { isSet = isSet || f.Name == "test.parallel" })
	if isSet {
		return nil
	}
	return flag.Set("test.parallel", "64")
}

// buildExtension returns the extension built for an architecture, with further flags
// of go build.
func buildExtension(t *testing.T, arch vm.Arch, flags ...string) string {
	t.Helper()
	path, err := vm.BuildOnce(t.Context(), arch, "../../extension", "kmodquery.ext", flags...)
	require.NoError(t, err)
	return path
}

// kernels are those that a test boots: the oldest and the newest of its own, and in the
// larger suites, or where GUEST selects tests, all of its own. Its own are those of the matrix that it names, or all.
func kernels(names ...string) []vm.Kernel {
	own := slices.DeleteFunc(vm.Matrix(), func(k vm.Kernel) bool {
		return len(names) > 0 && !slices.Contains(names, k.String())
	})
	if !isSmall() {
		return own
	}
	return slices.DeleteFunc(own, func(k vm.Kernel) bool { return !isAnEnd(k.String()) })
}

// TestKernels runs this package's guest tests and scripts on the kernels of the
// matrix.
func TestKernels(t *testing.T) {
	t.Parallel()
	for _, kernel := range kernels() {
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
			vm.TestStep(t, kernel, guestTests(kernel), vm.Options{
				Modules: append([]string{"nbd", "tcp_nv", "tcp_illinois", "overlay", "brd", "af_alg", "romfs", large}, unseen...),
				Files:   files,
				Ext4:    guestDisk,
				// Unloading waits for RCU; without this a storm is a breeze.
				Cmdline: []string{"rcupdate.rcu_expedited=1"},
				Timeout: 30 * time.Minute,
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

// isSmall reports whether this run is make test, and not tests selected by GUEST.
func isSmall() bool { return !suite.All() && os.Getenv("GUEST") == "" }

// isAnEnd reports whether a kernel is the oldest or the newest. In make test-long all
// count as such.
func isAnEnd(kernel string) bool {
	return kernel == vm.Oldest().String() || kernel == vm.Newest().String() || suite.Long()
}

// Tests that not every kernel runs, by what follows TestGuest.
var (
	// betweenTests are those that kernels between the oldest and the newest run: tests
	// of what hooks and views give.
	betweenTests = []string{
		"Sees32BitLoaders",
		"AutoloadNamesItsRequester",
		"NamesTheContainerOfALoader",
		"ReportsDeniedCalls",
		"CountsDeniedCallsOfManyUsers",
		"FoldsAFloodOfDeniedCalls",
		"FoldsDeniedCallsByProgram",
		"EveryColumnOfEveryWayToLoad",
		"HashesEveryImage",
		"ReportsFailedLoads",
		"DescribesTheLoader",
		"CutsLongParams",
		"MissedReturnsEndTheirLoads",
		"ReportsTheParamsThatTheKernelTook",
		"ReportsSignatures",
		"SeesEveryLoadOfAStorm",
		"ViewsShowEveryColumn",
	}
	// newestTests are of what is the same on every kernel: user space's part of it.
	newestTests = []string{
		"HashesFilesBeyondTheImageLimit",
		"ReportsALoadWhoseInitStillRuns",
		"MemoryIsBoundedUnderAFlood",
		"QueriesEndUnderAFlood",
		"Scripts",
	}
	// largeTests leave the oldest kernel to the larger suites: of what they test little
	// depends on the kernel.
	largeTests = []string{
		"ShowsAnyByteOfAProcessSafely",
		"CountsDeniedCallsOfManyUsers",
		"FoldsAFloodOfDeniedCalls",
		"HashesImagesOfEverySize",
		"ReportsTheGapOfAKilledRecorder",
		"ModprobeByHandHasNoRequester",
		"DescribesLoadersThatHaveEnded",
		"ReportsTracingThatIsSwitchedOff",
	}
)

// guestPattern is a regular expression of the tests.
func guestPattern(names ...string) string {
	return "^TestGuest(" + strings.Join(names, "|") + ")$"
}

// guestTests selects the tests of a kernel. GUEST selects by hand.
func guestTests(kernel vm.Kernel) vm.Step {
	pattern := os.Getenv("GUEST")
	name := kernel.String()
	switch {
	case pattern != "":
		return vm.Step{Pattern: pattern}
	case suite.Long() || name == vm.Newest().String():
		return vm.Step{Pattern: "^TestGuest"}
	case !isAnEnd(name):
		return vm.Step{Pattern: guestPattern(betweenTests...)}
	case suite.All():
		return vm.Step{Pattern: "^TestGuest", Skip: guestPattern(newestTests...)}
	}
	return vm.Step{Pattern: "^TestGuest", Skip: guestPattern(slices.Concat(newestTests, largeTests)...)}
}

func TestNamesOfGuestTestsExist(t *testing.T) {
	files, err := filepath.Glob("*_test.go")
	require.NoError(t, err)
	var source strings.Builder
	for _, file := range files {
		source.WriteString(read(t, file))
	}
	for _, name := range slices.Concat(betweenTests, newestTests, largeTests, pinnedTests, longPinnedTests, oldestPinnedTests) {
		require.Contains(t, source.String(), "func TestGuest"+name+"(t *testing.T)")
	}
}

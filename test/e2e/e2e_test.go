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

// guestExtension is the path of the extension in the guest. The file belongs to root
// and is not in a sticky folder, as osqueryd requires.
const guestExtension = "/usr/lib/kmodquery/kmodquery.ext"

// guestDisk is the image of an ext4 filesystem in the guest.
const guestDisk = "/root/disk.ext4"

func TestMain(m *testing.M) {
	if os.Getenv(pinnedEnv) == "" {
		// Each test has a recorder and a store of its own, which must not get the
		// events of another test's pinned programs.
		os.Setenv("KMODQUERY_PIN_DIR", "none")
	}
	if role := os.Getenv(roleEnv); role != "" {
		os.Exit(play(role))
	}
	if err := becomeSystemd(); err != nil {
		fmt.Fprintln(os.Stderr, err) // guest.Init continues without systemd
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

// raiseParallel lets more tests run in parallel than the host has processors, unless
// the command line sets the number: most of them wait until a guest gets a processor.
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

// kernels returns the kernels that a test boots, from the matrix or from its named
// kernels: the oldest and the newest, and all of them in the larger suites or if GUEST
// selects tests.
func kernels(names ...string) []vm.Kernel {
	own := slices.DeleteFunc(vm.Matrix(), func(k vm.Kernel) bool {
		return len(names) > 0 && !slices.Contains(names, k.String())
	})
	if !isSmall() {
		return own
	}
	return slices.DeleteFunc(own, func(k vm.Kernel) bool { return !isAnEnd(k.String()) })
}

// kernelsBut returns the kernels that a test boots, without those that only make test-long
// has.
func kernelsBut(long ...string) []vm.Kernel {
	return slices.DeleteFunc(kernels(), func(k vm.Kernel) bool {
		return !suite.Long() && os.Getenv("GUEST") == "" && slices.Contains(long, k.String())
	})
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
				// Unloading waits for RCU grace periods, which must be short for a
				// storm.
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

// isSmall reports whether this run is make test, without a selection by GUEST.
func isSmall() bool { return !suite.All() && os.Getenv("GUEST") == "" }

// isAnEnd reports whether a kernel is the oldest or the newest. In make test-long it is
// true for all kernels.
func isAnEnd(kernel string) bool {
	return kernel == vm.Oldest().String() || kernel == vm.Newest().String() || suite.Long()
}

// Tests that not every kernel runs, without the prefix TestGuest.
var (
	// betweenTests run on the kernels between the oldest and the newest. They test
	// hooks and views.
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
		"ViewsShowEveryColumn",
	}
	// userSpaceTests test user space, which is the same on every kernel. They run on
	// the oldest kernel, which takes half of the time in an emulator, and in make
	// test-long on every kernel.
	userSpaceTests = []string{
		"ReportsALoadWhoseInitStillRuns",
		"ReportsFilteredRecords", // with a module that hooks what ftrace cannot hook in the newest kernel
		"ReportsTheGapOfAKilledRecorder",
		"Scripts",
	}
	// newestTests test what only newer kernels do, or have a part that does. They run on
	// the newest kernel, what else they have in make test on the oldest, and in make
	// test-long on every kernel.
	newestTests = []string{
		"HashesFilesBeyondTheImageLimit",
		"NamesTheLoadThatACallWaitedFor",
		"MemoryIsBoundedUnderAFlood",
		"QueriesEndUnderAFlood",
	}
	// onceTests depend little on the kernel. In make test they run on the oldest only.
	onceTests = []string{
		"AttachesAgainWhenLinksAreClosed",
		"SeesEveryLoadOfAStorm", // TestPinned has storms on the newest
		"ReportsSignatures",
		"SignaturesTellLoadsApart",
		"HashesAHugeImage",
		"AncestorsEndAtTheirLimit",
		"DescribesAnOrphanedLoader",
		"CutsLongParams",
		"ShowsAnyByteOfAProcessSafely",
		"CountsDeniedCallsOfManyUsers",
		"FoldsAFloodOfDeniedCalls",
		"HashesImagesOfEverySize",
		"ModprobeByHandHasNoRequester",
		"DescribesLoadersThatHaveEnded",
		"ViewsShowHostileNames",
	}
	// slowTests do not run in make test, which has others of the same mechanisms:
	// AttachesAgainWhenLinksAreClosed, KillsLoseNoEvent with its storm, HashesEveryImage,
	// FoldsDeniedCallsByProgram and CountsDeniedCallsOfManyUsers, ViewsShowEveryColumn.
	slowTests = []string{
		"ReportsTracingThatIsSwitchedOff", "SeesEveryLoadOfAStorm", "HashesImagesOfEverySize", "FoldsAFloodOfDeniedCalls",
		"ViewsShowHostileNames",
	}
)

// guestPattern returns a regular expression of the tests.
func guestPattern(names ...string) string {
	return "^TestGuest(" + strings.Join(names, "|") + ")$"
}

// guestTests selects the tests of a kernel. The environment variable GUEST overrides
// the selection.
func guestTests(kernel vm.Kernel) vm.Step {
	all := vm.Step{Pattern: "^TestGuest"}
	name := kernel.String()
	switch {
	case os.Getenv("GUEST") != "":
		return vm.Step{Pattern: os.Getenv("GUEST")}
	case suite.Long():
	case !isAnEnd(name):
		return vm.Step{Pattern: guestPattern(betweenTests...)}
	case isSmall() && name == vm.Newest().String():
		all.Skip = guestPattern(slices.Concat(userSpaceTests, newestTests, onceTests, slowTests)...)
	case isSmall():
		all.Skip = guestPattern(slowTests...)
	case name == vm.Newest().String():
		all.Skip = guestPattern(userSpaceTests...)
	default:
		all.Skip = guestPattern(newestTests...)
	}
	return all
}

func TestNamesOfGuestTestsExist(t *testing.T) {
	files, err := filepath.Glob("*_test.go")
	require.NoError(t, err)
	var source strings.Builder
	for _, file := range files {
		source.WriteString(read(t, file))
	}
	for _, name := range slices.Concat(betweenTests, userSpaceTests, newestTests, onceTests, slowTests, pinnedTests, longPinnedTests, oldestPinnedTests, newestPinnedTests) {
		require.Contains(t, source.String(), "func TestGuest"+name+"(t *testing.T)")
	}
}

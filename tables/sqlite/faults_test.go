//go:build linux

package sqlite

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/test/suite"
)

// The role "faults" opens a store, appends, reads, expires events, closes it and opens it
// again. Like the writer, it retries a batch that failed. It prints the batches that it
// begins and those that are confirmed.
const (
	faultBatches      = 6
	faultSize         = 4
	faultUnprivileged = 5 // unprivileged events that stay
	faultTries        = 4
	// faultBusyTimeout is how long a call waits for a lock that a fault made busy.
	faultBusyTimeout = 100 * time.Millisecond
)

// batchOf returns the i-th batch: ordinary events and as many unprivileged ones.
func batchOf(i int) []kmodquery.Delivery {
	var batch []kmodquery.Delivery
	for j := range faultSize {
		at := int64(1_790_000_000 + i)
		load := kmodquery.Event{Time: at, EventName: kmodquery.EventModuleLoad, Name: fmt.Sprintf("o%d-%d", i, j), SHA256: "x",
			Cmdline: strings.Repeat("long ", 300), Source: "kmsg"}
		request := kmodquery.Event{Time: at, EventName: kmodquery.EventModuleRequest, Name: fmt.Sprintf("c%d-%d", i, j)}
		batch = append(batch, kmodquery.Delivery{Event: load, Position: fmt.Sprintf("%d-%d", i, j)}, kmodquery.Delivery{Event: request})
	}
	return batch
}

func faultsRole(dir string) error {
	// strace counts the calls of each thread.
	runtime.GOMAXPROCS(1)
	runtime.LockOSThread()
	for half := range 2 {
		s, err := retry(func() (*Store, error) {
			return Open(context.Background(), dir, Options{MaxUnprivileged: faultUnprivileged, busyTimeout: faultBusyTimeout, Report: func(err error) { fmt.Println("report", err) }})
		})
		if err != nil {
			return err
		}
		for i := half * faultBatches / 2; i < (half+1)*faultBatches/2; i++ {
			fmt.Println("begin", i)
			if _, err := retry(func() (any, error) { return nil, s.Append(context.Background(), batchOf(i)) }); err != nil {
				return err
			}
			fmt.Println("done", i)
			err := s.Events(context.Background(), kmodquery.Filter{}, func(*kmodquery.Event) error { return nil })
			if err != nil {
				fmt.Println("read", err)
			}
		}
		if err := s.Expire(context.Background()); err != nil {
			fmt.Println("expire", err)
		}
		if err := s.checkpoint(context.Background()); err != nil {
			fmt.Println("checkpoint", err)
		}
		if err := s.Close(); err != nil {
			fmt.Println("close", err)
		}
	}
	fmt.Println("end")
	return nil
}

func retry[T any](f func() (T, error)) (value T, err error) {
	for range faultTries {
		if value, err = f(); err == nil {
			return value, nil
		}
		fmt.Println("failed", err)
	}
	return value, err
}

// faultyCalls are the system calls that read, write, sync and rename the store's files.
var faultyCalls = []string{
	"open", "openat", "read", "pread64", "write", "pwrite64", "fsync", "fdatasync", "ftruncate", "fallocate",
	"rename", "renameat", "renameat2", "unlink", "unlinkat", "mkdir", "mkdirat", "mmap", "flock", "fcntl", "getdents64",
	"newfstatat", "fstat", "lstat", "stat", "fchmod", "fchmodat", "chmod",
}

// noSpace are those of them that fail on a full disk.
var noSpace = []string{"open", "openat", "write", "pwrite64", "ftruncate", "fallocate", "rename", "renameat", "renameat2", "mkdir", "mkdirat"}

// strace runs the role under strace(1), which injects faults into the calls on files of the
// folder. It returns the output of the role and its outcome.
func strace(t *testing.T, dir string, options ...string) (said []string, outcome string) {
	t.Helper()
	args := append([]string{"-f", "-qq"}, options...)
	if !strings.Contains(strings.Join(options, " "), "signal=") {
		args = append(args, "--seccomp-bpf") // faster, and loses injected signals
	}
	for _, name := range []string{"", lockName, probeName, keyName, databaseName, databaseName + ".new"} {
		paths := []string{name}
		if strings.HasPrefix(name, databaseName) {
			paths = []string{name, name + "-wal", name + "-shm", name + "-journal"}
		}
		for _, path := range paths {
			args = append(args, "-P", filepath.Join(dir, path))
		}
	}
	self, err := os.Executable()
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, "strace", append(args, self, dir)...)
	command.Env = append(os.Environ(), roleVariable+"=faults")
	var output, trouble bytes.Buffer
	command.Stdout, command.Stderr = &output, &trouble
	err = command.Run()
	require.NoError(t, ctx.Err(), "the role hangs")
	require.NotContains(t, trouble.String(), "goroutine ", "a panic")
	for lines := bufio.NewScanner(&output); lines.Scan(); {
		said = append(said, lines.Text())
	}
	failure := new(exec.ExitError)
	switch {
	case err == nil:
		return said, "ended"
	case !errors.As(err, &failure):
		require.NoError(t, err)
	case failure.ExitCode() == 1:
		require.Len(t, strings.Split(strings.TrimSpace(trouble.String()), "\n"), 1, "one line")
		return said, "gave up"
	}
	return said, "killed"
}

// requireStrace installs strace in CI, and elsewhere skips the test without it.
func requireStrace(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("strace"); err == nil {
		return
	}
	if os.Getenv("CI") == "" {
		t.Skip("strace is missing: apt-get install strace")
	}
	for _, args := range [][]string{{"update", "-qq"}, {"install", "-y", "-qq", "--no-install-recommends", "strace"}} {
		command := exec.Command("apt-get", args...)
		command.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		output, err := command.CombinedOutput()
		require.NoError(t, err, string(output))
	}
}

// TestConfirmedBatchesSurviveAFaultInAnyCall makes a system call of a run fail, or kills
// the process at it. The store, opened again, has all confirmed batches and no part of an
// unconfirmed one, except that the last batch may be stored without confirmation.
func TestConfirmedBatchesSurviveAFaultInAnyCall(t *testing.T) {
	if testing.Short() {
		t.Skip("runs the store under strace many times")
	}
	requireStrace(t)
	counts := countCalls(t)
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("FAULT_SEED"); text != "" {
		_, err := fmt.Sscan(text, &seed)
		require.NoError(t, err)
	}
	t.Logf("FAULT_SEED=%d %v", seed, counts)
	random := rand.New(rand.NewPCG(seed, 0))

	type fault struct {
		call, what string
		n          int
	}
	var faults []fault
	for _, call := range faultyCalls {
		count := counts[call]
		for _, what := range []string{"error=EIO", "error=ENOSPC", "signal=SIGKILL"} {
			if what == "error=ENOSPC" && !slices.Contains(noSpace, call) {
				continue
			}
			// Of a frequent call a random part of the occurrences is tried, unless
			// FAULT_ALL is set.
			every := 1
			if os.Getenv("FAULT_ALL") == "" {
				every = 1 + count/suite.Trials(faultsOfACall)
			}
			for n := 1 + random.IntN(every); n <= count; n += every {
				faults = append(faults, fault{call, what, n})
			}
		}
	}
	outcomes := map[string]int{}
	var mu sync.Mutex
	var group sync.WaitGroup
	queue := make(chan fault)
	for range 2 * runtime.NumCPU() {
		group.Go(func() {
			for f := range queue {
				t.Run(fmt.Sprintf("%s %s %d", f.call, f.what, f.n), func(t *testing.T) {
					outcome := injectFault(t, fmt.Sprintf("inject=%s:%s:when=%d", f.call, f.what, f.n))
					mu.Lock()
					defer mu.Unlock()
					outcomes[outcome]++
				})
			}
		})
	}
	for _, f := range faults {
		queue <- f
	}
	close(queue)
	group.Wait()
	t.Log(len(faults), outcomes)
	if !t.Failed() {
		require.Positive(t, outcomes["killed"])
		require.Positive(t, outcomes["ended"])
	}
}

// faultsOfACall is about the number of occurrences of a call that are tried for each kind
// of fault.
const faultsOfACall = 8

var tracedCall = regexp.MustCompile(`(?m)^\d+ +([a-z0-9_]+)\(`)

func countCalls(t *testing.T) map[string]int {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "state")
	trace := filepath.Join(t.TempDir(), "trace")
	said, outcome := strace(t, dir, "-o", trace, "-e", "trace="+strings.Join(existing(faultyCalls), ","))
	require.Equal(t, "ended", outcome, said)
	require.Contains(t, said, "end")
	text, err := os.ReadFile(trace)
	require.NoError(t, err)
	counts := map[string]int{}
	for _, match := range tracedCall.FindAllSubmatch(text, -1) {
		counts[string(match[1])]++
	}
	require.Positive(t, counts["pwrite64"])
	require.Positive(t, counts["pread64"])
	return counts
}

// existing marks the calls as optional, because no architecture has all of them.
func existing(calls []string) []string {
	var marked []string
	for _, call := range calls {
		marked = append(marked, "?"+call)
	}
	return marked
}

func injectFault(t *testing.T, inject string) (outcome string) {
	dir := filepath.Join(t.TempDir(), "state")
	call, _, _ := strings.Cut(strings.TrimPrefix(inject, "inject="), ":")
	said, outcome := strace(t, dir, "-o", "/dev/null", "-e", "trace="+call, "-e", inject)
	t.Log(outcome, said)

	confirmed, started := -1, -1
	isKeyLost := false // a disk that does not return the key is reported as such
	for _, line := range said {
		if strings.HasPrefix(line, "report ") && strings.Contains(line, "key") {
			isKeyLost = true
			continue
		}
		require.False(t, strings.HasPrefix(line, "report") && !strings.HasPrefix(line, "report store: disk full"), "a fault was taken for damage: %s", line)
		_, _ = fmt.Sscanf(line, "done %d", &confirmed)
		_, _ = fmt.Sscanf(line, "begin %d", &started)
	}
	// openIn checks for leaks, which other subtests that run now would cause.
	s, err := Open(context.Background(), dir, Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	copies, _ := damagedCopies(dir)
	require.Zero(t, copies)
	var names []string
	for _, e := range read(t, s, kmodquery.Filter{}) {
		names = append(names, e.Name)
	}
	slices.Reverse(names)
	status, err := s.Status(context.Background())
	require.NoError(t, err)
	require.Zero(t, status.Damaged)
	if !isKeyLost {
		require.Empty(t, status.Trouble)
	}
	require.Empty(t, verified(t, s), "the totals are not those of the rows")

	// The last batch is stored completely or not at all.
	var found []string
	for _, candidate := range []int{confirmed, started} {
		var ordinary, unprivileged []string
		for i := range candidate + 1 {
			for _, d := range batchOf(i) {
				if d.Event.IsUnprivileged() {
					unprivileged = append(unprivileged, d.Event.Name)
				} else {
					ordinary = append(ordinary, d.Event.Name)
				}
			}
		}
		if slices.Equal(ordinary, namesOf('o', names)) {
			found = names
			kept := namesOf('c', names)
			require.GreaterOrEqual(t, len(kept), min(len(unprivileged), faultUnprivileged))
			require.Equal(t, unprivileged[len(unprivileged)-len(kept):], kept, "the oldest expire")
			position, err := s.Position(context.Background(), "kmsg")
			require.NoError(t, err)
			if candidate >= 0 {
				require.Equal(t, fmt.Sprintf("%d-%d", candidate, faultSize-1), position)
			}
		}
	}
	require.Equal(t, names, found, "confirmed %d, started %d", confirmed, started)
	return outcome
}

func namesOf(kind byte, names []string) []string {
	var some []string
	for _, name := range names {
		if name[0] == kind {
			some = append(some, name)
		}
	}
	return some
}

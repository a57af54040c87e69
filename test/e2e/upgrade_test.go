//go:build linux

package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery/bpf"
)

// TestGuestUpgradeLosesNothing replaces the recorder by a build that pins another set,
// and that one by the first, during a storm.
func TestGuestUpgradeLosesNothing(t *testing.T) {
	needPinned(t)
	chance, p := seeded(t), newDeployment(t)
	builds := []string{guestExtension, otherExtension}
	recorder := p.startRecorder(t, builds[0])
	p.awaitActive(t)
	first := pinnedSets(t)
	require.Len(t, first, 1)
	storm := startStorm(t, stormPause)
	start := time.Second
	for round := range rounds(t, 2, 3, 30) {
		if round%2 == 0 {
			recorder.kill(t)
		} else {
			recorder.terminate(t)
		}
		recorder = p.startRecorder(t, builds[(round+1)%2])
		// Some are killed during the upgrade.
		if chance.IntN(3) == 0 {
			time.Sleep(time.Duration(chance.Int64N(int64(start))))
			recorder.kill(t)
			recorder = p.startRecorder(t, builds[(round+1+chance.IntN(2))%2])
		}
		start = max(start, recorder.awaitAppend(t, p))
		// Others are killed as soon as they have stored something. The older sets, each
		// of tens of megabytes, stay until a recorder has read them completely.
		if chance.IntN(3) > 0 {
			require.Eventually(t, func() bool { return len(pinnedSets(t)) == 1 }, busyLimit, 100*time.Millisecond, "round %d: older sets accumulate", round)
		}
	}
	// The last recorder has another set than the first.
	recorder.terminate(t)
	recorder = p.startRecorder(t, builds[1])
	recorder.awaitAppend(t, p)
	done := storm.end(t)
	p.requireExactly(t, done)
	require.Eventually(t, func() bool { return len(pinnedSets(t)) == 1 }, busyLimit, 100*time.Millisecond, "%v", pinnedSets(t))
	require.NotEqual(t, first, pinnedSets(t))
	recorder.terminate(t)
}

// TestGuestUpgradeSendsEachCallOnce has threads call init_module with bytes that are
// not a module, each time of another size, while program sets replace each other.
func TestGuestUpgradeSendsEachCallOnce(t *testing.T) {
	needPinned(t)
	path := filepath.Join(filepath.Dir(pinFolder), t.Name())
	t.Cleanup(func() {
		_, err := bpf.Detach(path)
		require.NoError(t, err)
	})
	image := make([]byte, 1<<20)
	var size atomic.Int64
	size.Store(64)
	var calling sync.WaitGroup
	stop := make(chan struct{})
	for i := range 4 {
		calling.Go(func() {
			runtime.LockOSThread()
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := unix.InitModule(image[:size.Add(1)], ""); !errors.Is(err, unix.ENOEXEC) {
					t.Error(err)
				}
				// The rings hold the records that are sent while an emulator attaches a
				// set.
				time.Sleep(time.Duration(i+1) * 40 * time.Millisecond)
			}
		})
	}
	got := map[bpf.Kind]map[uint64]int{bpf.SystemCall: {}, bpf.LoadData: {}}
	attempts := map[uint64]time.Duration{}
	first := int64(0)
	var lost map[uint64]uint64
	const rounds = 4
	for round := range rounds {
		p, err := bpf.Open(t.Context(), bpf.Options{PinDir: path, Anew: true})
		require.NoError(t, err)
		require.NoError(t, p.Unpinned())
		if round == 0 {
			first = size.Load() + 10
		}
		if round == rounds-1 {
			close(stop)
			calling.Wait()
		}
		p.SetDeadline(time.Now().Add(5 * time.Second))
		var own uint64 // the records of a set are read when another has replaced it
		for {
			raw, at, err := p.Read()
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			require.NoError(t, err)
			r, err := p.Decode(raw, at)
			require.NoError(t, err)
			if own = max(own, at.Set); round < rounds-1 && round > 0 && at.Set != own {
				t.Fatal("an older set comes after a younger one")
			}
			p.Release(at, bpf.Position{}, at)
			if int(r.Pid) != os.Getpid() || got[r.Kind] == nil {
				continue
			}
			var n uint64
			if r.Kind == bpf.SystemCall {
				n = r.Call.Size
			} else {
				n = r.File.Size
			}
			got[r.Kind][n]++
			if before := attempts[n]; before != 0 {
				require.Equal(t, before, r.Attempt)
			}
			require.NotZero(t, r.Attempt)
			attempts[n] = r.Attempt
			if round < rounds-1 && len(attempts)%64 == 0 {
				break // during the calls
			}
		}
		lost, err = p.Lost()
		require.NoError(t, err)
		t.Logf("lost: %v", lost)
		require.Empty(t, p.Filtered())
		require.NoError(t, p.Close())
	}
	t.Logf("%d calls", len(attempts))
	require.Greater(t, len(attempts), 100)
	missed, counted := 0, 0
	for n := uint64(first); n <= uint64(size.Load()); n++ {
		require.LessOrEqual(t, got[bpf.SystemCall][n], 1, "init_module %d of %d to %d", n, first, size.Load())
		missed += 1 - got[bpf.SystemCall][n]
		require.Equal(t, 1, got[bpf.LoadData][n], "security_kernel_load_data %d of %d to %d", n, first, size.Load())
	}
	for _, n := range lost {
		counted += int(n)
	}
	// A kretprobe follows as many calls at once as there are processors. A busy host may have more.
	require.LessOrEqual(t, missed, counted, "returns are missing and not counted as lost")
}

//go:build linux

package e2e

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery/linux/ebpf"
	"github.com/kmodquery/kmodquery/test/vm/guest"
)

// loadPause is the pause between two loads while hooks are attached again.
const loadPause = 150 * time.Millisecond

// TestGuestRecordsWhileHooksAreAttachedAgain gives a recorder cause to attach its hooks again,
// repeatedly, and removes their pins, while modules are loaded. Each load is recorded once, and
// the sensor always has hooks.
func TestGuestRecordsWhileHooksAreAttachedAgain(t *testing.T) {
	needPinned(t)
	t.Cleanup(func() { require.NoError(t, ebpf.Detach(pinFolder)) })
	for _, test := range []struct {
		name, pinDir string
		rounds       int
	}{{"pinned", pinFolder, 2}, {"not pinned", "", 1}} {
		t.Run(test.name, func(t *testing.T) {
			w := watchWith(t, ebpf.Options{ImageLimit: ebpf.MaxImage, PinDir: test.pinDir})
			require.NoError(t, w.Sync(t.Context()))
			w.mu.Lock()
			before := len(w.events)
			w.mu.Unlock()
			stop := w.loadAlways(t, "dummy")
			for round := range test.rounds {
				reason := fmt.Sprintf("the load of module nosuch_%d was not observed", round)
				sets := pinnedSets(t)
				w.source.MarkUnreliable(reason)
				w.awaitReason(t, "attached again at .*: "+reason)
				if test.pinDir != "" {
					require.Eventually(t, func() bool { return len(pinnedSets(t)) == 1 }, busyLimit, 50*time.Millisecond, "the earlier set stays")
					require.NotEqual(t, sets, pinnedSets(t))
				}
			}
			if test.pinDir != "" {
				sets := pinnedSets(t)
				require.NoError(t, os.RemoveAll(pinFolder))
				w.awaitReason(t, "pinned again at .*: the pinned programs were removed")
				require.Equal(t, sets, pinnedSets(t), "the same hooks are attached")
			}
			w.requireEach(t, before, "dummy", stop())
			require.Zero(t, w.source.Sensor().Lost)
		})
	}
}

// loadAlways loads and unloads a module until stop is called, which returns how often.
// Meanwhile the sensor must be active and have hooks.
func (w *watcher) loadAlways(t *testing.T, name string) (stop func() (loads int)) {
	t.Helper()
	image := image(t, name)
	ended := make(chan struct{})
	var working sync.WaitGroup
	loads := 0
	working.Go(func() {
		for {
			select {
			case <-ended:
				return
			case <-time.After(loadPause):
			}
			if err := guest.LoadImage(image, ""); err != nil {
				t.Error(err)
				return
			}
			loads++
			if err := guest.Unload(name); err != nil {
				t.Error(err)
				return
			}
		}
	})
	working.Go(func() {
		for {
			select {
			case <-ended:
				return
			case <-time.After(10 * time.Millisecond):
			}
			if sensor := w.source.Sensor(); sensor.State != "active" || !strings.Contains(sensor.Hooks, "init_module") {
				t.Errorf("the sensor is %s, has the hooks %s and says %q", sensor.State, sensor.Hooks, sensor.Reason)
				return
			}
		}
	})
	once := sync.OnceFunc(func() {
		close(ended)
		working.Wait()
	})
	t.Cleanup(once)
	return func() int {
		once()
		return loads
	}
}

// awaitReason waits until the source's sensor has a reason. It does not Sync, which would make
// the source report loads before it has read their images.
func (w *watcher) awaitReason(t *testing.T, reason string) {
	t.Helper()
	wanted := regexp.MustCompile(reason)
	require.Eventually(t, func() bool {
		return wanted.MatchString(w.source.Sensor().Reason)
	}, busyLimit, 50*time.Millisecond, "%s", reason)
}

// requireEach waits for the recorded events of n loads and unloads of a module after the
// first ones, and requires each of them once.
func (w *watcher) requireEach(t *testing.T, first int, name string, n int) {
	t.Helper()
	require.Eventually(t, func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		unloads := 0
		for _, e := range w.events[first:] {
			if e.Name == name && e.EventName == "delete_module" {
				unloads++
			}
		}
		return unloads == n
	}, busyLimit, 100*time.Millisecond, "of %d unloads", n)
	w.mu.Lock()
	defer w.mu.Unlock()
	counts, loads := map[string]int{}, map[string]bool{}
	for _, e := range w.events[first:] {
		if e.Name != name || e.EventName == "sys_exit_init_module" { // the return of a call that took long
			continue
		}
		counts[e.EventName]++
		loads[e.EventName+e.LoadID] = true
		require.False(t, e.Missing.Has("sha256"), "%s %s at %v: %s", e.EventName, e.LoadID, time.Unix(0, e.TimeNanos), w.source.Sensor().Reason)
	}
	want := map[string]int{}
	for _, event := range loadAndUnload {
		want[event] = n
	}
	require.Equal(t, want, counts)
	require.Len(t, loads, n*len(loadAndUnload), "an event is recorded twice")
	require.Positive(t, n)
	t.Logf("%d loads", n)
}

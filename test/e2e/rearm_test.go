//go:build linux

package e2e

import (
	"os"
	"regexp"
	"slices"
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

// TestGuestRecordsWhileHooksAreAttachedAgain removes the pins of a recorder's hooks, and then gives
// it cause to attach other hooks while modules are loaded. Each load is recorded once, and the
// sensor always has hooks.
func TestGuestRecordsWhileHooksAreAttachedAgain(t *testing.T) {
	needPinned(t)
	t.Cleanup(func() { require.NoError(t, ebpf.Detach(pinFolder)) })
	w := watchWith(t, ebpf.Options{ImageLimit: ebpf.MaxImage, PinDir: pinFolder})
	sets := pinnedSets(t)
	for range 2 {
		require.NoError(t, os.RemoveAll(pinFolder))
		require.Eventually(t, func() bool {
			require.NoError(t, w.Sync(t.Context())) // makes the source check
			return slices.Equal(sets, pinnedSets(t))
		}, busyLimit, 50*time.Millisecond, "the same hooks are pinned again")
		w.awaitReason(t, "pinned again at .*: the pinned programs were removed")
	}
	require.Len(t, w.tampered(), 2)

	first := w.recorded()
	stop := w.loadAlways(t, "dummy")
	w.source.MarkUnreliable("the load of module nosuch was not observed")
	w.awaitReason(t, "attached again at .*: the load of module nosuch was not observed")
	require.Eventually(t, func() bool { return len(pinnedSets(t)) == 1 }, busyLimit, 50*time.Millisecond, "the earlier set stays")
	require.NotEqual(t, sets, pinnedSets(t))
	w.requireEach(t, first, "dummy", stop())
	require.Zero(t, w.source.Sensor().Lost)
	require.Zero(t, w.source.Sensor().Filtered)
	require.Len(t, w.tampered(), 2, "that hooks are attached again is no tampering")
}

// recorded returns the number of events.
func (w *watcher) recorded() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.events)
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

// requireEach waits until each event of n loads and unloads of a module is recorded, and requires
// that none is recorded twice. Those of a load wait for its image.
func (w *watcher) requireEach(t *testing.T, first int, name string, n int) {
	t.Helper()
	require.Positive(t, n)
	t.Logf("%d loads", n)
	var counts map[string]int // of events with different load_ids
	require.Eventually(t, func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		counts = map[string]int{}
		seen := map[string]bool{}
		for _, e := range w.events[first:] {
			if e.Name != name || !slices.Contains(loadAndUnload, e.EventName) {
				continue
			}
			key := e.EventName + e.LoadID
			if seen[key] {
				t.Errorf("an event is recorded twice: %s of %s", e.EventName, e.LoadID)
			}
			if e.Missing.Has("sha256") {
				t.Errorf("%s of %s has no hash: %s", e.EventName, e.LoadID, w.source.Sensor().Reason)
			}
			seen[key] = true
			counts[e.EventName]++
		}
		return t.Failed() || !slices.ContainsFunc(loadAndUnload, func(event string) bool { return counts[event] < n })
	}, busyLimit, 100*time.Millisecond)
	for _, event := range loadAndUnload {
		require.Equal(t, n, counts[event], event)
	}
}

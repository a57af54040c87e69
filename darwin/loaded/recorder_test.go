package loaded

import (
	"context"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/collectors"
	"github.com/kmodquery/kmodquery/collectors/crossview"
	"github.com/kmodquery/kmodquery/darwin/ulog"
)

var _ crossview.Views = (*Kexts)(nil)

// A sink that keeps events in memory.
type sink struct {
	mu     sync.Mutex
	events []kmodquery.Event
}

func (s *sink) Append(_ context.Context, deliveries []kmodquery.Delivery) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range deliveries {
		s.events = append(s.events, deliveries[i].Event)
	}
	return nil
}

// facts returns the main columns of each event, sorted.
func (s *sink) facts() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	for _, e := range s.events {
		all = append(all, e.EventName+" "+e.Source+" "+e.Name+" "+e.Version+" "+e.Path)
	}
	slices.Sort(all)
	return all
}

// The recorder writes the loaded extensions and the events that the log has of this
// boot.
func TestARecorderStoresLoadedExtensionsAndTheLogOfTheBoot(t *testing.T) {
	h := newMac(t)
	h.policy(history11, userTable, mdmTable,
		"INSERT INTO kext_load_history_v3 VALUES ('/Library/Extensions/probe.kext', '"+team+"', '"+probe+"', 'B2', '2026-11-01 10:00:00', '2026-11-24 09:30:00', 53, '"+cdhash+"')",
		"INSERT INTO kext_load_history_v3 VALUES ('/private/tmp/gone.kext', '', 'com.example.gone', 'B0', '2025-01-01 00:00:00', '2025-01-02 00:00:00', 1, '')")
	h.write("stream", "")
	h.write("show", `{"timestamp":"2026-11-24 02:00:01.250000-0800","machTimestamp":5,"threadID":6,"processID":0,"userID":0,"processImagePath":"\/kernel",`+
		`"senderImagePath":"\/kernel","bootUUID":"B","eventMessage":"Kext com.example.bad start failed (result 0x5)."}`+"\n")
	programs := h.programs
	programs.Log = filepath.Join(filepath.Dir(programs.Kmutil), "log")
	var s sink
	r := collectors.NewRecorder(&s, func(err error) { t.Error(err) }, collectors.Options{
		Sources: []collectors.Source{ulog.New(ulog.Options{Programs: programs})},
		Views:   h.Kexts,
		Stamp: func() kmodquery.Event {
			now := time.Now()
			return kmodquery.Event{Time: now.Unix(), TimeNanos: now.UnixNano(), BootID: "B"}
		},
	})
	r.Start(t.Context())
	require.Eventually(t, func() bool {
		require.NoError(t, r.Sync(t.Context()))
		return len(s.facts()) == 3
	}, 20*time.Second, 50*time.Millisecond)
	require.Equal(t, []string{
		"kextload unified_log com.example.bad  ",
		"module_present procfs com.apple.iokit.IOUSBHostFamily 1.2 ",
		"module_present procfs com.example.driver.probe 1.2.3 /Library/Extensions/probe.kext",
	}, s.facts())
	loaded, err := r.Loaded(t.Context())
	require.NoError(t, err)
	slices.SortFunc(loaded, func(a, b kmodquery.Module) int { return len(a.Name) - len(b.Name) })
	require.Len(t, loaded, 2)
	all, err := h.All(t.Context())
	require.NoError(t, err)
	joined := kmodquery.JoinModules(all, loaded)
	require.Len(t, joined, 3)
	require.Equal(t, []string{"showloaded", "kextpolicy", "events"}, joined[1].Views)
	require.NotEmpty(t, joined[1].LoadID)
	require.False(t, slices.ContainsFunc(joined, func(m kmodquery.Module) bool { return m.IsHidden() }))
	for _, sensor := range r.Sensors(t.Context()) {
		require.Equal(t, kmodquery.StateActive, sensor.State)
		require.Empty(t, sensor.Reason)
	}
	require.NoError(t, r.Close())
}

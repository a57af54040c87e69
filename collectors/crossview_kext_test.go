package collectors

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

// The list of macOS is compared with its sources. The events have the names of macOS.
func TestKextsThatOnlyTheListShows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, k := newStaged(kmodquery.SourceUnifiedLog), newKernel("com.early")
		r, sink, _ := startStaged(t, Options{
			Sources: []Source{log}, SideBySide: true, Views: k, ViewsSource: kmodquery.SourceShowloaded, Stamp: stampNow,
		})
		log.begin <- struct{}{}
		w := &watch{Recorder: r, kernel: k, sink: sink}
		w.advance()
		logged := func(eventName, name, id string) {
			log.emitting <- kmodquery.Event{EventName: eventName, Name: name, LoadID: id, TimeNanos: time.Now().UnixNano(), Result: new(int64(0))}
			synctest.Wait()
		}
		logged(kmodquery.EventKextload, "com.logged", "1")
		k.load("com.logged")
		k.load("com.unseen")
		w.advance()
		logged(kmodquery.EventKextunload, "com.logged", "2")
		k.unload("com.logged")
		k.unload("com.unseen")
		w.advance()
		require.NoError(t, r.Sync(t.Context()))
		var rows, reasons []string
		for _, e := range sink.events {
			rows = append(rows, e.Source+" "+e.EventName+" "+e.Name)
			if e.Reason != "" {
				reasons = append(reasons, e.Reason)
			}
		}
		require.ElementsMatch(t, []string{
			"showloaded module_present com.early",
			"unified_log kextload com.logged", "unified_log kextunload com.logged",
			"showloaded kextload com.unseen", "showloaded kextunload com.unseen",
		}, rows)
		require.Equal(t, []string{"it is in showloaded but was not 10s ago", "it is no longer in showloaded"}, reasons)
		require.Equal(t, kmodquery.SourceShowloaded, r.Sensors(t.Context())[1].Source)
		require.NoError(t, r.Close())
	})
}

// The list shows a kext before the source reports it.
func TestKextThatTheListNoticesLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTable(byEndpointSecurity)
		a.addKext(byEndpointSecurity, "kextload", "com.a", "1", 0)
		a.add(2, deliver(kmodquery.Event{EventName: "kextload", Source: kmodquery.SourceShowloaded, Name: "com.a", LoadID: "s", TimeNanos: int64(time.Hour + kextSlack + 9*time.Second)}), false)
		a.add(2, deliver(kmodquery.Event{EventName: "kextload", Source: kmodquery.SourceShowloaded, Name: "com.a", LoadID: "r", TimeNanos: int64(time.Hour + kextSlack + 11*time.Second)}), false)
		a.flushAll()
		require.Equal(t, []string{"endpoint_security kextload com.a 1", "showloaded kextload com.a 1", "showloaded kextload com.a r"}, a.rows)
	})
}

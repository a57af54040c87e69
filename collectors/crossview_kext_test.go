package collectors

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

// What macOS lists as loaded is compared with what its sources said, under the
// names that things have there.
func TestKextsThatOnlyTheListHas(t *testing.T) {
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
		require.Equal(t, []string{"it is in showloaded and was not 10s ago", "it is not in showloaded any more"}, reasons)
		require.Equal(t, kmodquery.SourceShowloaded, r.Sensors(t.Context())[1].Source)
		require.NoError(t, r.Close())
	})
}

// The list notices late what a source tells of later still.
func TestAKextThatTheListNoticesLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTable(byEndpointSecurity)
		a.tellKext(byEndpointSecurity, "kextload", "com.a", "1", 0)
		a.add(2, deliver(kmodquery.Event{EventName: "kextload", Source: kmodquery.SourceShowloaded, Name: "com.a", LoadID: "s", TimeNanos: int64(time.Hour + kextSlack + 9*time.Second)}), false)
		a.add(2, deliver(kmodquery.Event{EventName: "kextload", Source: kmodquery.SourceShowloaded, Name: "com.a", LoadID: "r", TimeNanos: int64(time.Hour + kextSlack + 11*time.Second)}), false)
		a.flushAll()
		require.Equal(t, []string{"endpoint_security kextload com.a 1", "showloaded kextload com.a 1", "showloaded kextload com.a r"}, a.rows)
	})
}

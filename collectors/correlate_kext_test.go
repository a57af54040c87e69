package collectors

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

// Ranks of macOS's sources in these tests.
const (
	byEndpointSecurity = iota
	byUnifiedLog
)

// addKext adds an event about a kernel extension. Each source knows another process.
func (t *table) addKext(rank int, eventName, name, id string, at time.Duration) {
	e := kmodquery.Event{
		EventName: eventName, Name: name, LoadID: id, TimeNanos: int64(time.Hour + at), Pid: new(int64(100 + rank)),
		Source: []string{kmodquery.SourceEndpointSecurity, kmodquery.SourceUnifiedLog}[rank],
	}
	t.add(rank, deliver(e), false)
}

func TestAKextIsOneAttemptOfSeveralSources(t *testing.T) {
	want := []string{
		"unified_log kext_allowed com.a 1", "endpoint_security kextload com.a 1", "unified_log kextload com.a 1",
		"endpoint_security kextunload com.a 2", "unified_log kextunload com.a 2",
	}
	reported := []func(*table){
		func(a *table) { a.addKext(byUnifiedLog, "kext_allowed", "com.a", "l", 0) },
		func(a *table) { a.addKext(byEndpointSecurity, "kextload", "com.a", "1", 3*time.Second) },
		func(a *table) { a.addKext(byUnifiedLog, "kextload", "com.a", "l", 12*time.Second) },
		func(a *table) { a.addKext(byEndpointSecurity, "kextunload", "com.a", "2", 13*time.Second) },
		func(a *table) { a.addKext(byUnifiedLog, "kextunload", "com.a", "m", 14*time.Second) },
	}
	for _, order := range [][]int{{0, 1, 2, 3, 4}, {1, 3, 0, 2, 4}, {1, 0, 2, 4, 3}} {
		synctest.Test(t, func(t *testing.T) {
			a := newTable(byEndpointSecurity, byUnifiedLog)
			for _, i := range order {
				reported[i](a)
			}
			a.flushAll()
			require.ElementsMatch(t, want, a.rows, order)
			require.EqualValues(t, 3, a.joinedBy("unified_log"))
		})
	}
}

// A query flushes what waits.
func TestBetterSourceReportsAKextLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTable(byEndpointSecurity, byUnifiedLog)
		a.addKext(byUnifiedLog, "kext_blocked", "com.a", "l", 0)
		require.Empty(t, a.rows)
		a.flushAll()
		a.addKext(byEndpointSecurity, "kextload", "com.a", "1", time.Second)
		a.addKext(byUnifiedLog, "kextload", "com.a", "l", 2*time.Second)
		a.flushAll()
		require.Equal(t, []string{
			"unified_log kext_blocked com.a l", "endpoint_security kextload com.a l", "unified_log kextload com.a l",
		}, a.rows)
	})
}

// Any user can cause a refusal, which belongs to its attempt nevertheless.
func TestARefusedKextIsOneAttemptOfSeveralSources(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTable(byEndpointSecurity, byUnifiedLog)
		a.addKext(byEndpointSecurity, "kextload", "com.a", "1", 0)
		a.add(byUnifiedLog, deliver(kmodquery.Event{
			EventName: "kextload", Source: kmodquery.SourceUnifiedLog, Name: "com.a", LoadID: "l", TimeNanos: int64(time.Hour + time.Second), Error: "0x5",
		}), false)
		a.flushAll()
		require.Equal(t, []string{"endpoint_security kextload com.a 1", "unified_log kextload com.a 1"}, a.rows)
	})
}

func TestKextsThatAreNotOneAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTable(byEndpointSecurity, byUnifiedLog)
		a.addKext(byEndpointSecurity, "kextload", "com.a", "1", 0)
		a.addKext(byUnifiedLog, "kextload", "com.b", "b", 0)                       // another one
		a.addKext(byUnifiedLog, "kextunload", "com.a", "u", 0)                     // no load
		a.addKext(byUnifiedLog, "kextload", "com.a", "t", time.Second+kextSlack+1) // another time
		a.addKext(byUnifiedLog, "kext_blocked", "", "n", 0)                        // without a name
		a.addKext(byEndpointSecurity, "kextload", "", "2", 0)                      // likewise
		a.addKext(byEndpointSecurity, "kextload", "com.a", "3", time.Second)       // another attempt of the same source
		a.addKext(byUnifiedLog, "kextload", "com.a", "s", 900*time.Millisecond)    // the nearer one matches
		a.flushAll()
		slices.Sort(a.rows)
		require.Equal(t, []string{
			"endpoint_security kextload  2", "endpoint_security kextload com.a 1", "endpoint_security kextload com.a 3",
			"unified_log kext_blocked  n", "unified_log kextload com.a 3", "unified_log kextload com.a t",
			"unified_log kextload com.b b", "unified_log kextunload com.a u",
		}, a.rows)
	})
}

package collectors

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

// Ranks of the sources in these tests.
const (
	byBPF = iota
	byAudit
	byKmsg
	byViews
)

var rankNames = []string{kmodquery.SourceEBPF, kmodquery.SourceAudit, kmodquery.SourceKmsg, kmodquery.SourceProcfs}

// A table collects the events that a correlator emits, as "source event name load_id".
type table struct {
	*correlator
	rows []string
}

func newTable(up ...int) *table {
	t := &table{}
	t.correlator = newCorrelator(
		func(d kmodquery.Delivery) {
			e := &d.Event
			t.rows = append(t.rows, fmt.Sprintf("%s %s %s %s", e.Source, e.EventName, e.Name, e.LoadID))
		},
		func(rank int) bool {
			for _, other := range up {
				if other < rank {
					return true
				}
			}
			return false
		}, 10*time.Second, "boot")
	return t
}

func (t *table) addEvent(rank int, eventName, name, id string, pid int64, at time.Duration) {
	t.addChanged(rank, eventName, name, id, pid, at, func(*kmodquery.Event) {})
}

func (t *table) addChanged(rank int, eventName, name, id string, pid int64, at time.Duration, change func(*kmodquery.Event)) {
	e := kmodquery.Event{EventName: eventName, Source: rankNames[rank], Name: name, LoadID: id, TimeNanos: int64(time.Hour + at)}
	if pid != 0 {
		e.Pid = &pid
	}
	change(&e)
	t.add(rank, deliver(e), false)
}

// withResult sets the result of a call.
func withResult(result int64) func(*kmodquery.Event) {
	return func(e *kmodquery.Event) { e.Result = &result }
}

// begunBefore makes an event that of a call whose beginning the hooks did not see.
func begunBefore(e *kmodquery.Event) { e.Missing.Add("path") }

func TestFourSourcesShareOneLoadID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTable(byBPF, byAudit, byKmsg, byViews)
		a.addEvent(byKmsg, "module_load", "dummy", "k", 0, 100*time.Millisecond)
		a.addEvent(byAudit, "finit_module", "dummy", "a", 7, 0)
		require.Empty(t, a.rows, "the best one has not reported it yet")
		a.addEvent(byBPF, "security_kernel_read_file", "dummy", "1", 7, 0)
		a.addEvent(byBPF, "module_load", "dummy", "1", 7, 200*time.Millisecond)
		a.addEvent(byViews, "module_load", "dummy", "v", 0, 9*time.Second)
		a.addEvent(byAudit, "delete_module", "dummy", "b", 7, 20*time.Second)
		a.addEvent(byBPF, "module_free", "dummy", "2", 7, 20*time.Second)
		require.Equal(t, "ebpf security_kernel_read_file dummy 1", a.rows[0])
		require.Len(t, a.rows, 6, "an event of the views waits for an event that is nearer in time")
		a.flushAll()
		require.ElementsMatch(t, []string{
			"ebpf security_kernel_read_file dummy 1", "audit finit_module dummy 1", "kmsg module_load dummy 1",
			"ebpf module_load dummy 1", "procfs module_load dummy 1", "ebpf module_free dummy 2", "audit delete_module dummy 2",
		}, a.rows)
		require.EqualValues(t, 2, a.joinedBy("audit"))
		require.EqualValues(t, 1, a.joinedBy("kmsg"))
		require.EqualValues(t, 0, a.joinedBy("ebpf"))
	})
}

func TestAttemptOfALesserSourceKeepsItsLoadID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTable(byBPF)
		a.addEvent(byAudit, "finit_module", "dummy", "a", 7, 0)
		a.addEvent(byBPF, "module_load", "dummy", "1", 8, 0)           // another process
		a.addEvent(byBPF, "module_load", "other", "2", 7, 0)           // another module
		a.addEvent(byBPF, "module_load", "dummy", "3", 7, time.Minute) // another time
		a.addEvent(byBPF, "delete_module", "dummy", "4", 7, 0)         // no load
		a.addEvent(byBPF, "module_request", "dummy", "5", 7, 0)        // neither
		a.expire(time.Now().Add(matchPatience - time.Second))
		require.Len(t, a.rows, 5)
		a.expire(time.Now().Add(matchPatience))
		require.Equal(t, "audit finit_module dummy a", a.rows[5])
	})
}

// eBPF's hooks were attached while modprobe loaded two modules, and saw only the returns of
// its calls, which took seconds. Audit has the times at which they began.
func TestCallsThatBeganBeforeTheHooksAreJoinedByTheirReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, isAuditFirst := range []bool{true, false} {
			a := newTable(byBPF)
			if !isAuditFirst {
				a.addChanged(byBPF, "finit_module", "", "1", 7, 8*time.Second, begunBefore)
				a.addChanged(byBPF, "finit_module", "", "2", 7, 14*time.Second, begunBefore)
			}
			a.addEvent(byAudit, "finit_module", "first", "a", 7, 0)
			a.addEvent(byAudit, "finit_module", "second", "b", 7, 9*time.Second)
			a.addEvent(byAudit, "finit_module", "other", "c", 8, 9*time.Second)
			a.flushAll()
			if isAuditFirst {
				a.addChanged(byBPF, "finit_module", "", "1", 7, 8*time.Second, begunBefore)
				a.addChanged(byBPF, "finit_module", "", "2", 7, 14*time.Second, begunBefore)
				require.Equal(t, []string{
					"audit finit_module first a", "audit finit_module second b", "audit finit_module other c",
					"ebpf finit_module  a", "ebpf finit_module  b",
				}, a.rows)
			} else {
				require.Equal(t, []string{
					"ebpf finit_module  1", "ebpf finit_module  2",
					"audit finit_module first 1", "audit finit_module second 2", "audit finit_module other c",
				}, a.rows)
			}
		}
	})
}

// systemd-modules-load wrote "Inserted module 'bridge'" 2.3 seconds after the time that
// audit gave its call: the module's init took that long.
func TestASlowLoadIsJoinedByTheLineOfItsLoader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTable(byAudit)
		a.addChanged(byAudit, "finit_module", "bridge", "a", 419, 0, withResult(0))
		a.addChanged(byKmsg, "module_load", "bridge", "k", 419, 2332*time.Millisecond, withResult(0))
		a.addChanged(byAudit, "delete_module", "bridge", "b", 420, 10*time.Second, withResult(0))
		a.addChanged(byAudit, "finit_module", "bridge", "c", 419, 20*time.Second, withResult(0))
		a.addChanged(byKmsg, "module_load", "bridge", "l", 419, 28*time.Second, withResult(0))
		a.flushAll()
		require.ElementsMatch(t, []string{
			"audit finit_module bridge a", "kmsg module_load bridge a", "audit delete_module bridge b",
			"audit finit_module bridge c", "kmsg module_load bridge c",
		}, a.rows)
	})
}

// A process has a load that only audit saw, and a call that the kernel refused at once.
func TestARefusedCallIsNotTheLoadBeforeIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, apart := range []time.Duration{0, time.Second, 10 * time.Second} {
			for _, change := range []func(*kmodquery.Event){func(*kmodquery.Event) {}, begunBefore} {
				refuse := func(a *table) {
					a.addChanged(byBPF, "finit_module", "", "1", 7, apart, func(e *kmodquery.Event) {
						change(e)
						withResult(-9)(e)
					})
				}
				a := newTable(byBPF)
				a.addChanged(byAudit, "finit_module", "evil", "a", 7, 0, withResult(0))
				a.flushAll()
				refuse(a)
				require.Equal(t, []string{"audit finit_module evil a", "ebpf finit_module  1"}, a.rows)

				a = newTable(byBPF)
				a.addChanged(byAudit, "finit_module", "evil", "a", 7, 0, withResult(0))
				refuse(a)
				a.flushAll()
				require.Equal(t, []string{"ebpf finit_module  1", "audit finit_module evil a"}, a.rows)
			}
		}
	})
}

// A module that audit saw refused, and whose later load began before the hooks.
func TestALateCallIsNotAFailedOneBeforeIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTable(byBPF)
		a.addChanged(byAudit, "finit_module", "dummy", "a", 7, 0, withResult(-8))
		a.flushAll()
		a.addChanged(byBPF, "module_load", "dummy", "1", 7, 10*time.Second, begunBefore)
		require.Equal(t, []string{"audit finit_module dummy a", "ebpf module_load dummy 1"}, a.rows)
	})
}

// eBPF stores an init_module that runs for long without its result.
func TestACallWithoutItsResultIsJoinedWithItsReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTable(byBPF)
		a.addChanged(byBPF, "init_module", "dummy", "1", 7, 0, func(e *kmodquery.Event) { e.Missing.Add("result") })
		a.addChanged(byAudit, "init_module", "dummy", "a", 7, 0, withResult(0))
		require.Equal(t, []string{"ebpf init_module dummy 1", "audit init_module dummy 1"}, a.rows)
	})
}

// A hooked call that is refused at once begins no search through the calls of its process.
func TestOnlyCallsThatBeganBeforeTheHooksAreLate(t *testing.T) {
	for name, column := range map[string]string{"finit_module": "path", "init_module": "sha256", "module_load": "path"} {
		e := kmodquery.Event{EventName: name, Source: "ebpf", Result: new(int64(-9)), Missing: "signer"}
		require.False(t, isLate(&e), name)
		e.Missing.Add(column)
		require.True(t, isLate(&e), name)
		e.Source = "audit"
		require.False(t, isLate(&e), name)
	}
}

// The log has a failed load and a later one that succeeded, which the hooks did not see.
func TestAFailedLogLineIsNotTheLoadThatTheViewsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, before := range []time.Duration{time.Second, 20 * time.Second} {
			for _, fail := range []func(*kmodquery.Event){withResult(-8), func(e *kmodquery.Event) { e.Missing.Add("result") }} {
				a := newTable()
				a.addEvent(byViews, "module_load", "dummy", "v", 0, 20*time.Second)
				line := func(id string, at time.Duration, change func(*kmodquery.Event)) {
					e := kmodquery.Event{EventName: "module_load", Source: "kmsg", Name: "dummy", LoadID: id, TimeNanos: int64(time.Hour + at)}
					change(&e)
					a.add(byKmsg, deliver(e), true)
				}
				line("failed", 20*time.Second-before, fail)
				line("good", 20*time.Second-before/2, func(*kmodquery.Event) {})
				require.Equal(t, []string{"procfs module_load dummy v", "kmsg module_load dummy failed"}, a.rows)
			}
		}
	})
}

// The views are read when the sources watch, and the log of the time before is read later.
func TestLogLineOfTheStartJoinsALoadThatTheViewsNoticedLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, isUnloaded := range []bool{false, true} {
			a := newTable()
			if isUnloaded { // and loaded again, which the log does not have
				a.addEvent(byBPF, "module_free", "dummy", "1", 7, 5*time.Second)
			}
			a.addEvent(byViews, "module_load", "dummy", "v", 0, 20*time.Second)
			e := kmodquery.Event{EventName: "module_load", Source: "kmsg", Name: "dummy", LoadID: "k", TimeNanos: int64(time.Hour + 2*time.Second)}
			a.add(byKmsg, deliver(e), true)
			if isUnloaded {
				require.Equal(t, []string{"ebpf module_free dummy 1", "procfs module_load dummy v", "kmsg module_load dummy k"}, a.rows)
			} else {
				require.Equal(t, []string{"procfs module_load dummy v"}, a.rows)
			}
		}
	})
}

// Only one source knows the name of a module that was refused early.
func TestAttemptsAreJoinedByProcessOrByName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTable(byBPF)
		a.addEvent(byAudit, "init_module", "", "a", 7, 0)
		a.addEvent(byBPF, "init_module", "dummy", "1", 7, 0)
		a.addEvent(byAudit, "init_module", "dummy", "b", 8, 0)
		a.addEvent(byBPF, "init_module", "", "2", 8, 0)
		require.Equal(t, []string{
			"ebpf init_module dummy 1", "audit init_module  1", "ebpf init_module  2", "audit init_module dummy 2",
		}, a.rows)
	})
}

func TestEachAttemptKeepsItsOwnLoadID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTable(byBPF)
		const n = 500
		for i := range n {
			at := time.Duration(i) * 10 * time.Millisecond
			a.addEvent(byAudit, "finit_module", "dummy", fmt.Sprint("a", i), 7, at)
			a.addEvent(byAudit, "delete_module", "dummy", fmt.Sprint("b", i), 7, at+5*time.Millisecond)
		}
		for i := range n {
			at := time.Duration(i) * 10 * time.Millisecond
			a.addEvent(byBPF, "module_load", "dummy", fmt.Sprint(2*i), 7, at)
			a.addEvent(byBPF, "module_free", "dummy", fmt.Sprint(2*i+1), 7, at+5*time.Millisecond)
		}
		a.flushAll()
		require.Len(t, a.rows, 4*n)
		seen := map[string]int{}
		for _, row := range a.rows {
			seen[row]++
		}
		require.Len(t, seen, 4*n, "no two of a source have one id")
		for i := range n {
			require.Contains(t, seen, fmt.Sprintf("audit finit_module dummy %d", 2*i))
			require.Contains(t, seen, fmt.Sprintf("audit delete_module dummy %d", 2*i+1))
		}
	})
}

func TestEventsOfASourceStayInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTable(byBPF)
		a.addEvent(byKmsg, "module_load", "one", "k", 0, 0)
		a.addEvent(byKmsg, "module_request", "two", "", 0, 0)
		a.addEvent(byKmsg, "module_load", "three", "l", 0, 0)
		a.addEvent(byBPF, "module_load", "three", "3", 7, 0)
		require.Equal(t, []string{"ebpf module_load three 3"}, a.rows)
		a.addEvent(byBPF, "module_load", "one", "1", 7, 0)
		require.Equal(t, []string{"ebpf module_load one 1", "kmsg module_load one 1", "kmsg module_request two ", "kmsg module_load three 3"}, a.rows[1:])
	})
}

func TestHeldEventsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTable(byBPF)
		for i := range maxHeld + 10 {
			a.addEvent(byKmsg, "module_load", fmt.Sprint("m", i), fmt.Sprint("k", i), 0, 0)
		}
		require.Len(t, a.rows, 10)
		for i := range 2 * maxKnown {
			a.addEvent(byBPF, "module_load", fmt.Sprint("dummy", i%100), fmt.Sprint(i), int64(i%5), time.Duration(i)*time.Minute)
		}
		require.Len(t, a.known, maxKnown)
		require.Equal(t, maxKnown, total(a.byName))
		require.Equal(t, maxKnown*4/5, total(a.byPid), "one in five has none")
		a.flushAll()
		require.Empty(t, a.held)
	})
}

func total[K comparable](index map[K][]*attempt) (n int) {
	for _, list := range index {
		n += len(list)
	}
	return n
}

func TestBackfilledEventMatchesTheNewestStoredAttempt(t *testing.T) {
	now := time.Now()
	var got []kmodquery.Event
	a := newCorrelator(func(d kmodquery.Delivery) { got = append(got, d.Event) }, func(rank int) bool { return rank > 0 }, 0, "")
	a.remember([]ranked{
		{0, kmodquery.Event{EventName: kmodquery.EventModuleLoad, Source: "ebpf", Name: "dummy", LoadID: "2", TimeNanos: now.UnixNano()}},
		{0, kmodquery.Event{EventName: kmodquery.EventModuleLoad, Source: "ebpf", Name: "dummy", LoadID: "1", TimeNanos: now.Add(-time.Hour).UnixNano()}},
	})
	a.add(2, deliver(kmodquery.Event{EventName: kmodquery.EventModuleLoad, Source: "journal", Name: "dummy", LoadID: "j", TimeNanos: now.UnixNano()}), true)
	a.flushAll()
	require.Empty(t, got, "ebpf reported it")
}

func TestBackfilledEventIsNotEmittedAgain(t *testing.T) {
	now := time.Now()
	var got []kmodquery.Event
	a := newCorrelator(func(d kmodquery.Delivery) { got = append(got, d.Event) }, func(rank int) bool { return rank > 0 }, 0, "")
	e := kmodquery.Event{EventName: kmodquery.EventModuleLoad, Source: "journal", Name: "dummy", LoadID: "j", TimeNanos: now.UnixNano()}
	a.remember([]ranked{{2, e}})
	a.add(2, deliver(e), true)
	a.flushAll()
	require.Empty(t, got, "it is stored")
}

// The better source works again and reports the load later.
func TestTwoLogsShareOneLoadID(t *testing.T) {
	now := time.Now()
	var got []kmodquery.Event
	a := newCorrelator(func(d kmodquery.Delivery) { got = append(got, d.Event) }, func(rank int) bool { return false }, 0, "")
	a.add(3, deliver(kmodquery.Event{EventName: kmodquery.EventModuleLoad, Source: "kmsg", Name: "dummy", LoadID: "k", TimeNanos: now.UnixNano()}), false)
	a.add(2, deliver(kmodquery.Event{EventName: kmodquery.EventModuleLoad, Source: "journal", Name: "dummy", LoadID: "j", TimeNanos: now.UnixNano()}), false)
	require.Equal(t, got[0].LoadID, got[1].LoadID)
}

func TestViewsDoNotJoinALoadThatIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTable(byAudit)
		a.addEvent(byAudit, "finit_module", "dummy", "a", 7, 0)
		a.addEvent(byAudit, "delete_module", "dummy", "b", 8, time.Second)
		a.addEvent(byViews, "module_load", "dummy", "v", 0, 9*time.Second)
		a.flushAll()
		require.Equal(t, "procfs module_load dummy v", a.rows[len(a.rows)-1])
	})
}

func TestLogLineJoinsTheNextAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTable(byBPF, byKmsg)
		a.addEvent(byBPF, "finit_module", "dummy", "1", 7, 0)
		a.addEvent(byKmsg, "module_load", "dummy", "k", 0, 1500*time.Millisecond)
		a.addEvent(byBPF, "module_load", "dummy", "2", 8, 1500*time.Millisecond)
		a.flushAll()
		require.Contains(t, a.rows, "kmsg module_load dummy 2")
	})
}

// Attempts that were reported while the store was read are newer than stored ones.
func TestReplayedAttemptsCountAsOlder(t *testing.T) {
	a := newCorrelator(func(kmodquery.Delivery) {}, func(int) bool { return false }, 0, "")
	event := func(i int) kmodquery.Event {
		return kmodquery.Event{EventName: kmodquery.EventModuleLoad, LoadID: fmt.Sprint(i), Name: "dummy", Pid: new(int64(i + 1)), TimeNanos: int64(i)}
	}
	a.add(0, deliver(event(maxKnown)), false)
	var stored []ranked
	for i := range maxKnown {
		stored = append(stored, ranked{0, event(maxKnown - 1 - i)})
	}
	a.remember(stored)
	require.Len(t, a.known, maxKnown)
	require.Contains(t, a.known, fmt.Sprint(maxKnown))
	require.NotContains(t, a.known, "0")
	require.True(t, a.known["1"].stored)
}

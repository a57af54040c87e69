package collectors

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

// reporting returns a correlator in whose test the sources with these ranks watch, and what
// it emits: for each event its source, name, load_id and whether it reports a load.
func reporting(up ...int) (*correlator, *[]string) {
	rows := new([]string)
	c := newCorrelator(func(d kmodquery.Delivery) {
		e := &d.Event
		reports := "-"
		if e.ReportsLoad != nil {
			reports = fmt.Sprint(*e.ReportsLoad)
		}
		*rows = append(*rows, fmt.Sprintf("%s %s %s %s", e.Source, e.EventName, e.LoadID, reports))
	}, func(rank int) bool {
		return slices.ContainsFunc(up, func(other int) bool { return other < rank })
	}, 10*time.Second, "boot")
	return c, rows
}

func loadEvent(rank int, eventName, name, id string, pid int64, at time.Duration) kmodquery.Event {
	e := kmodquery.Event{
		EventName: eventName, Source: rankNames[rank], Name: name, LoadID: id, BootID: "boot",
		TimeNanos: int64(time.Hour + at), Type: kmodquery.TypeKernelModule,
	}
	if pid != 0 {
		e.Pid = &pid
	}
	return e
}

func (c *correlator) take(rank int, events ...kmodquery.Event) {
	for _, e := range events {
		c.add(rank, deliver(e), false)
	}
}

func TestOneAttemptIsReportedByOneEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, rows := reporting(byBPF, byAudit, byKmsg, byViews)
		c.take(byKmsg, loadEvent(byKmsg, "module_load", "dummy", "k", 0, 100*time.Millisecond))
		c.take(byAudit, loadEvent(byAudit, "finit_module", "dummy", "a", 7, 0))
		c.take(byBPF, loadEvent(byBPF, "security_kernel_read_file", "dummy", "1", 7, 0),
			loadEvent(byBPF, "module_load", "dummy", "1", 7, 200*time.Millisecond),
			loadEvent(byBPF, "finit_module", "dummy", "1", 7, 300*time.Millisecond))
		c.flushAll()
		require.ElementsMatch(t, []string{
			"ebpf security_kernel_read_file 1 1", "ebpf module_load 1 0", "ebpf finit_module 1 0",
			"audit finit_module 1 0", "kmsg module_load 1 0",
		}, *rows)
	})
}

// Both sources observe some loads: audit stands in until eBPF has attached its hooks.
func TestALoadThatALesserSourceReportedIsNotReportedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, rows := reporting()
		const n = 50
		for i := range n { // one process loads and unloads one module; eBPF observes the later half
			at := time.Duration(i) * 20 * time.Millisecond
			c.take(byAudit, loadEvent(byAudit, "finit_module", "dummy", fmt.Sprint("a", i), 7, at),
				loadEvent(byAudit, "delete_module", "dummy", fmt.Sprint("u", i), 7, at+10*time.Millisecond))
		}
		for i := n / 2; i < n+n/2; i++ {
			at := time.Duration(i) * 20 * time.Millisecond
			c.take(byBPF, loadEvent(byBPF, "security_kernel_read_file", "dummy", fmt.Sprint(i), 7, at+2*time.Millisecond),
				loadEvent(byBPF, "module_load", "dummy", fmt.Sprint(i), 7, at+3*time.Millisecond),
				loadEvent(byBPF, "module_free", "dummy", fmt.Sprint("f", i), 7, at+11*time.Millisecond))
		}
		for i := range n {
			require.Contains(t, *rows, fmt.Sprintf("audit finit_module a%d 1", i))
		}
		for i := n / 2; i < n; i++ {
			require.Contains(t, *rows, fmt.Sprintf("ebpf security_kernel_read_file a%d 0", i))
		}
		for i := n; i < n+n/2; i++ {
			require.Contains(t, *rows, fmt.Sprintf("ebpf security_kernel_read_file %d 1", i))
		}
	})
}

// What was made inside of such a load refers to it.
func TestParentsFollowTheLoadIDThatIsStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var parents []string
		c := newCorrelator(func(d kmodquery.Delivery) { parents = append(parents, d.Event.ParentLoadID) }, func(int) bool { return false }, 0, "")
		inner := loadEvent(byBPF, "init_module", "inner", "2", 7, 5*time.Millisecond)
		inner.ParentLoadID = "1"
		c.take(byAudit, loadEvent(byAudit, "finit_module", "outer", "a", 7, 0))
		c.take(byBPF, loadEvent(byBPF, "security_kernel_read_file", "outer", "1", 7, time.Millisecond), inner)
		require.Equal(t, []string{"", "", "a"}, parents)
	})
}

// The kernel's log names neither the module nor the process of some refused loads.
func TestANamelessRefusalJoinsTheFailedAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, rows := reporting(byBPF)
		refused := func(rank int, eventName, name, id string, pid int64, at time.Duration) kmodquery.Event {
			e := loadEvent(rank, eventName, name, id, pid, at)
			e.Result = new(int64(-129))
			return e
		}
		c.take(byBPF, loadEvent(byBPF, "security_kernel_read_file", "good", "1", 7, 0))
		c.take(byBPF, loadEvent(byBPF, "security_kernel_read_file", "bad", "2", 8, time.Second),
			refused(byBPF, "finit_module", "bad", "2", 8, time.Second))
		c.take(byKmsg, refused(byKmsg, "module_load", "", "k", 0, time.Second+time.Millisecond))
		c.take(byKmsg, refused(byKmsg, "module_load", "", "l", 0, time.Second+2*time.Millisecond))
		c.flushAll()
		require.Equal(t, []string{
			"ebpf security_kernel_read_file 1 1", "ebpf security_kernel_read_file 2 1", "ebpf finit_module 2 0",
			"kmsg module_load 2 0", "kmsg module_load l 1",
		}, *rows, "the second line is about another attempt")
	})
}

// A new recorder reads the log of this boot again.
func TestStoredAttemptsAreNotReportedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, rows := reporting(byBPF)
		failed := loadEvent(byBPF, "finit_module", "bad", "2", 8, time.Second)
		failed.Result = new(int64(-129))
		read := loadEvent(byBPF, "security_kernel_read_file", "bad", "2", 8, time.Second)
		audit := loadEvent(byAudit, "finit_module", "dummy", "a", 7, 0)
		audit.ReportsLoad = new(int64(1))
		c.remember([]ranked{{byBPF, failed}, {byBPF, read}, {byAudit, audit}})
		line := loadEvent(byKmsg, "module_load", "", "k", 0, time.Second)
		line.Result = new(int64(-129))
		c.add(byKmsg, deliver(line), true)
		c.take(byBPF, loadEvent(byBPF, "security_kernel_read_file", "dummy", "1", 7, 5*time.Millisecond))
		c.flushAll()
		require.Equal(t, []string{"ebpf security_kernel_read_file a 0"}, *rows)
	})
}

// An earlier recorder stored the event that reports a load, and ended before the module went
// live. This one reads the rest of the load's records before it has read the stored events.
func TestALoadThatIsUnderWayAcrossARestartIsReportedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stored := loadEvent(byBPF, "security_kernel_read_file", "", "1", 7, 0)
		stored.ReportsLoad = new(int64(1))
		live := loadEvent(byBPF, "module_load", "dummy", "1", 7, time.Second)
		live.ReportsLoad = new(int64(1)) // the first event of the load that its source knows
		sink, source, isRead := &memory{}, &scripted{name: rankNames[byBPF], events: make(chan kmodquery.Event)}, make(chan struct{})
		r := NewRecorder(sink, (&reports{}).add, Options{
			Sources: []Source{source},
			Past: func(_ context.Context, visit func(*kmodquery.Event)) error {
				<-isRead
				visit(&stored)
				return nil
			},
		})
		started := background(func() { r.Start(t.Context()) })
		source.events <- live
		synctest.Wait()
		close(isRead)
		<-started
		require.NoError(t, r.Close())
		require.Len(t, sink.events, 1)
		require.Equal(t, new(int64(0)), sink.events[0].ReportsLoad)
	})
}

// Any user can cause such events, and each stands for itself.
func TestEventsOutsideOfAttemptsReportThemselves(t *testing.T) {
	c, rows := reporting()
	denied := loadEvent(byAudit, "init_module", "", "a", 7, 0)
	denied.Error, denied.Result = "EPERM", new(int64(-1))
	c.take(byAudit, denied, loadEvent(byAudit, "delete_module", "dummy", "u", 7, 0))
	c.take(byViews, loadEvent(byViews, "module_unwitnessed", "dummy", "v", 0, 0), loadEvent(byViews, "module_present", "dummy", "p", 0, 0))
	require.Equal(t, []string{
		"audit init_module a 1", "audit delete_module u -", "procfs module_unwitnessed v 1", "procfs module_present p -",
	}, *rows)
}

//go:build linux

package audit

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	libaudit "github.com/elastic/go-libaudit/v2"
	"github.com/elastic/go-libaudit/v2/auparse"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/internal/progress"
	"github.com/kmodquery/kmodquery/linux/host"
)

// A fakeKernel is a kernel's audit whose records the test sends.
type fakeKernel struct {
	mu       sync.Mutex
	changed  chan struct{} // closed with every change
	queue    []any         // results of Record: a line of the log, or an error
	deadline time.Time

	status  libaudit.AuditStatus
	backlog []uint32 // of the next calls of Status, before 0
	list    ruleList
	drops   int64
	refuse  error // of every change
	closed  bool
	changes []string
}

func newFakeKernel(enabled, pid uint32) *fakeKernel {
	return &fakeKernel{changed: make(chan struct{}), status: libaudit.AuditStatus{Enabled: enabled, PID: pid}}
}

// with changes the kernel.
func (k *fakeKernel) with(change func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	change()
	close(k.changed)
	k.changed = make(chan struct{})
}

// send queues the lines of a log as records.
func (k *fakeKernel) send(text string) {
	k.with(func() {
		for line := range strings.Lines(text) {
			k.queue = append(k.queue, strings.TrimSuffix(line, "\n"))
		}
	})
}

func (k *fakeKernel) Record() (auparse.AuditMessageType, []byte, error) {
	for {
		k.mu.Lock()
		if len(k.queue) > 0 {
			next := k.queue[0]
			k.queue = k.queue[1:]
			k.mu.Unlock()
			if err, ok := next.(error); ok {
				return 0, nil, err
			}
			name, message, _ := strings.Cut(strings.TrimPrefix(next.(string), "type="), " msg=")
			kind, err := auparse.GetAuditMessageType(name)
			return kind, []byte(message), err
		}
		changed, wait := k.changed, time.Until(k.deadline)
		k.mu.Unlock()
		if wait <= 0 {
			return 0, nil, os.ErrDeadlineExceeded
		}
		select {
		case <-changed:
		case <-time.After(wait):
		}
	}
}

func (k *fakeKernel) SetDeadline(at time.Time) error {
	k.with(func() { k.deadline = at })
	return nil
}

func (k *fakeKernel) Drops() int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.drops
}

func (k *fakeKernel) Status() (*libaudit.AuditStatus, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	status := k.status
	if len(k.backlog) > 0 {
		status.Backlog, k.backlog = k.backlog[0], k.backlog[1:]
	}
	return &status, nil
}

func (k *fakeKernel) change(what string, do func()) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.refuse != nil {
		return k.refuse
	}
	k.changes = append(k.changes, what)
	do()
	return nil
}

func (k *fakeKernel) SetEnabled(on bool) error {
	k.status.Enabled = map[bool]uint32{false: statusOff, true: statusOn}[on]
	return k.change(map[bool]string{false: "off", true: "on"}[on], func() {})
}

func (k *fakeKernel) SetBacklog(limit, waitTime uint32) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.refuse == nil {
		k.status.BacklogLimit, k.status.BacklogWaitTime = limit, waitTime
	}
	return k.refuse
}

func (k *fakeKernel) Rules() ([][]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append([][]byte(nil), k.list...), nil
}

func (k *fakeKernel) AddRule(rule []byte) error {
	return k.change("add", func() { k.list = slices.Insert(k.list, 0, rule) })
}

func (k *fakeKernel) DeleteRule(rule []byte) error {
	return k.change("delete", func() { k.list = k.list.without(rule) })
}

func (k *fakeKernel) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
	return nil
}

// A running is a Run of the source on a fake kernel.
type running struct {
	*Source
	kernel *fakeKernel
	events chan kmodquery.Event
	ended  chan error    // how Run returned, once
	over   chan struct{} // closed when it has
	cancel context.CancelFunc
}

func listenTo(t *testing.T, kernel *fakeKernel) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r := &running{
		Source: New(nil), kernel: kernel, events: make(chan kmodquery.Event, 4096),
		ended: make(chan error, 1), over: make(chan struct{}), cancel: cancel,
	}
	r.open = func() (kernelConn, error) { return kernel, nil }
	ready := make(chan struct{})
	go func() {
		defer close(r.over)
		r.ended <- r.Run(ctx, func() { close(ready) }, func(d kmodquery.Delivery) { r.events <- d.Event })
	}()
	select {
	case <-ready:
	case err := <-r.ended:
		r.ended <- err
	}
	t.Cleanup(func() {
		cancel()
		<-r.over // it may be in one of its pauses, which the bubble's time ends
		require.True(t, kernel.closed)
	})
	return r
}

// names returns the events since the last call.
func (r *running) names() []string {
	var names []string
	for {
		select {
		case e := <-r.events:
			names = append(names, e.EventName+" "+e.Name+" "+e.Cmdline)
		default:
			return names
		}
	}
}

func TestListenerEmitsTheKernelsCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := listenTo(t, newFakeKernel(statusOff, 0))
		require.Equal(t, []string{"add", "add", "on"}, r.kernel.changes)
		sensor := r.Sensor()
		require.Equal(t, kmodquery.StateActive, sensor.State)
		require.Contains(t, sensor.Reason, "boot with audit=1")
		require.Contains(t, sensor.Hooks, `"AUDIT_NLGRP_READLOG (multicast)"`)
		require.Contains(t, sensor.Hooks, "-k kmodquery-was-off")

		r.kernel.send(withSerial(insmodLines, 2) + "type=EOE msg=audit(1795529435.180:2): \n" + withSerial(rmmodLines, 3))
		synctest.Wait()
		require.Equal(t, []string{"finit_module dummy insmod dummy.ko numdummies=2", "delete_module dummy rmmod dummy"}, r.names())
		require.NoError(t, r.Sync(t.Context()))

		r.cancel()
		require.NoError(t, <-r.ended)
		require.Equal(t, []string{"add", "add", "on", "delete", "delete", "off"}, r.kernel.changes)
		require.Equal(t, kmodquery.StateStandby, r.Sensor().State)
		require.EqualValues(t, 7, r.Sensor().Received)
		require.EqualValues(t, 2, r.Sensor().EnrichErrors)
		require.Zero(t, r.Sensor().Lost)
		require.NoError(t, r.Sync(t.Context()))
	})
}

// The records came before the first step of NTP, on a host without a clock.
func TestTheKernelsCallsAreOfThisBootWhateverItsClockSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := listenTo(t, newFakeKernel(statusOff, 0))
		r.kernel.send(strings.ReplaceAll(withSerial(insmodLines, 2), "audit(1795529435.180", "audit(35.180"))
		require.NoError(t, r.Sync(t.Context()))
		e := <-r.events
		boot, err := host.BootID()
		require.NoError(t, err)
		require.Equal(t, boot, e.BootID)
		require.Nil(t, e.Uptime)
		require.Contains(t, e.Missing, "uptime")
		require.NotContains(t, e.Missing, "boot_id")
	})
}

// A load with many records must not wait for readers. The former settings are restored
// at the end.
func TestBacklogSettingsAreRestored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kernel := newFakeKernel(statusOff, 0)
		kernel.status.BacklogLimit, kernel.status.BacklogWaitTime = 64, 15000
		r := listenTo(t, kernel)
		require.EqualValues(t, backlogLimit, kernel.status.BacklogLimit)
		require.Zero(t, kernel.status.BacklogWaitTime)
		r.cancel()
		require.NoError(t, <-r.ended)
		require.EqualValues(t, 64, kernel.status.BacklogLimit)
		require.EqualValues(t, 15000, kernel.status.BacklogWaitTime)
		require.EqualValues(t, statusOff, kernel.status.Enabled)
	})
}

func TestSetupRespectsOtherRules(t *testing.T) {
	const modules = "-a always,exit -F arch=%s -S init_module,finit_module,delete_module -k modules"
	theirs := []string{strings.Replace(modules, "%s", "b64", 1), strings.Replace(modules, "%s", "b32", 1)}
	for _, test := range []struct {
		name         string
		enabled, pid uint32
		rules        []string
		changes      []string // until it ends
		left         int
		err          string
		isFinal      bool
	}{
		{"a daemon", statusOn, 7, nil, []string{"add", "add", "delete", "delete"}, 0, "", false},
		{"their rules", statusOn, 7, theirs, nil, 2, "", false},
		{"their rules, but audit is off", statusOff, 0, theirs, []string{"on", "off"}, 2, "", false},
		{"one of their rules", statusOn, 7, theirs[:1], []string{"add", "delete"}, 1, "", false},
		{"what a killed process left", statusOn, 0, ruleTexts(ruleKey), []string{"delete", "delete"}, 0, "", false},
		{"what one left that had switched it on", statusOn, 0, ruleTexts(ruleKeyWasOff), []string{"delete", "delete", "off"}, 0, "", false},
		{"the same under a daemon that came", statusOn, 7, ruleTexts(ruleKeyWasOff), []string{"delete", "delete"}, 0, "", false},
		{"half of what it left", statusOn, 0, ruleTexts(ruleKeyWasOff)[1:], []string{"add", "delete", "delete", "off"}, 0, "", false},
		{"left, and then switched off", statusOff, 0, ruleTexts(ruleKey), []string{"add", "add", "delete", "delete", "on", "delete", "delete", "off"}, 0, "", false},
		{"locked", statusLocked, 7, theirs, nil, 2, "", false},
		{"locked with its own", statusLocked, 7, ruleTexts(ruleKeyWasOff), nil, 2, "", false},
		{"locked without", statusLocked, 7, theirs[:1], nil, 1, "locked until the next boot", true},
		{"a daemon, but off", statusOff, 7, nil, nil, 0, "audit is off though its daemon runs", false},
		{"a rule that hides", statusOn, 0, []string{"-a never,task"}, nil, 1, "keeps all system calls out of audit", false},
		{"a rule before", statusOn, 0, []string{"-a never,exit -F arch=b64 -S all"}, []string{"add", "add", "delete", "delete"}, 1, "", false},
		{"a rule before those of others", statusOn, 7, append([]string{"-a never,exit -F arch=b64 -S finit_module -F uid>=0"}, theirs...),
			[]string{"add", "delete"}, 3, "", false},
		{"a rule before what a killed process left", statusOn, 0, append([]string{"-a never,exit -S all -F pid!=0"}, ruleTexts(ruleKey)...),
			[]string{"delete", "add", "delete", "add", "delete", "delete"}, 1, "", false},
		{"a rule before, locked", statusLocked, 7, append([]string{"-a never,exit -F arch=b64 -S finit_module -F uid>=0"}, theirs...),
			nil, 3, "locked until the next boot", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				kernel := newFakeKernel(test.enabled, test.pid)
				kernel.list = builtRules(t, test.rules...)
				r := listenTo(t, kernel)
				r.cancel()
				err := <-r.ended
				if test.err == "" {
					require.NoError(t, err)
				} else {
					require.ErrorContains(t, err, test.err)
					require.Equal(t, test.isFinal, errors.Is(err, kmodquery.ErrNotSupported))
					require.Contains(t, r.Sensor().Reason, test.err)
				}
				require.Equal(t, test.changes, kernel.changes)
				require.Len(t, kernel.list, test.left)
				enabled := test.enabled
				if slices.Contains(test.changes, "off") {
					enabled = statusOff
				}
				require.Equal(t, enabled, kernel.status.Enabled)
			})
		})
	}
}

func TestListenerNoticesChangedAuditSettings(t *testing.T) {
	for _, test := range []struct {
		name   string
		do     func(k *fakeKernel)
		within time.Duration
		err    string
	}{
		{"its rules gone", func(k *fakeKernel) {
			k.with(func() { k.list = nil })
			k.send("type=CONFIG_CHANGE msg=audit(1795529435.180:9): auid=0 op=remove_rule key=\"kmodquery\" list=4 res=1\n")
		}, 0, "was removed, or another was put before it"},
		{"its rules gone without a message", func(k *fakeKernel) { k.with(func() { k.list = nil }) }, checkInterval, "was removed, or another was put before it"},
		{"a rule before its own", func(k *fakeKernel) {
			k.with(func() {
				k.list = append(builtRules(t, "-a never,exit -F arch=b64 -S finit_module -F pid>0"), k.list...)
			})
		}, checkInterval, "was removed, or another was put before it"},
		{"a rule that hides some", func(k *fakeKernel) {
			k.with(func() { k.list = append(k.list, builtRules(t, "-a never,task -F uid>=0")...) })
		}, checkInterval, "rules that keep calls out of audit have changed"},
		{"audit off", func(k *fakeKernel) { k.with(func() { k.status.Enabled = statusOff }) }, checkInterval, "audit was switched off"},
		{"a rule that hides", func(k *fakeKernel) {
			k.with(func() { k.list = append(k.list, builtRules(t, "-a never,task")...) })
		}, checkInterval, "keeps all system calls out"},
		{"a socket that fails", func(k *fakeKernel) { k.with(func() { k.queue = append(k.queue, unix.EBADF) }) }, 0, "read audit's records"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := listenTo(t, newFakeKernel(statusOn, 0))
				test.do(r.kernel)
				began := time.Now()
				err := <-r.ended
				require.ErrorContains(t, err, test.err)
				require.NotErrorIs(t, err, kmodquery.ErrNotSupported)
				require.LessOrEqual(t, time.Since(began), test.within)
				require.Equal(t, kmodquery.StateFailed, r.Sensor().State)
				require.NotContains(t, r.kernel.list, builtRules(t, ruleTexts(ruleKey)...)[0])
			})
		})
	}
}

// No rule of the source helps against a rule that hides the calls of some processes.
func TestSensorNamesARuleThatHidesSomeCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kernel := newFakeKernel(statusOn, 0)
		kernel.list = builtRules(t, "-a never,task -F uid>=0")
		r := listenTo(t, kernel)
		require.Equal(t, kmodquery.StateFailed, r.Sensor().State)
		require.Contains(t, r.Sensor().Reason, `the audit rule "-a never,task -F uid>=0" keeps some calls out of audit`)
		r.kernel.send(withSerial(insmodLines, 2))
		synctest.Wait()
		require.Len(t, r.names(), 1, "it reads what is recorded")

		kernel.with(func() { kernel.list = kernel.list.without(builtRules(t, "-a never,task -F uid>=0")[0]) })
		require.ErrorContains(t, <-r.ended, "have changed")
	})
}

func TestLostRecordsAreCounted(t *testing.T) {
	for _, keeps := range []bool{false, true} {
		kernel := newFakeKernel(statusOn, 0)
		w := &setup{kernel: kernel, keepsRecords: keeps}
		kernel.status.Lost = 100 // before its time
		require.NoError(t, w.start())
		kernel.status.Lost = 107
		lost, err := w.check()
		require.NoError(t, err)
		require.EqualValues(t, map[bool]int{false: 7, true: 0}[keeps], lost, "records that were kept for a daemon were read from the group")
		kernel.status.PID, kernel.status.Lost = 7, 108
		lost, err = w.check()
		require.NoError(t, err)
		require.EqualValues(t, 1, lost)
		kernel.status.Lost = 3 // another program has reset it
		lost, err = w.check()
		require.NoError(t, err)
		require.Zero(t, lost)
		require.NoError(t, w.stop())
	}
	synctest.Test(t, func(t *testing.T) {
		r := listenTo(t, newFakeKernel(statusOn, 0))
		r.kernel.with(func() { r.kernel.queue, r.kernel.drops = append(r.kernel.queue, unix.ENOBUFS, errNotKernels), 5 })
		r.kernel.send("type=SYSCALL msg=nonsense\n")
		synctest.Wait()
		require.EqualValues(t, 5, r.Sensor().Lost)
		require.EqualValues(t, 2, r.Sensor().DecodeErrors)
		r.kernel.with(func() { r.kernel.drops = 6 })
		time.Sleep(checkInterval)
		synctest.Wait()
		require.EqualValues(t, 6, r.Sensor().Lost)
	})
}

func TestSyncWaitsForTheKernelsBacklog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := listenTo(t, newFakeKernel(statusOn, 7))
		r.kernel.with(func() { r.kernel.backlog = []uint32{3, 2, 1} })
		lines := strings.SplitAfter(withSerial(insmodLines, 2), "\n")
		r.kernel.send(lines[0])
		synced := make(chan error, 1)
		go func() { synced <- r.Sync(t.Context()) }()
		time.Sleep(2 * drainPause)
		r.kernel.send(lines[1] + lines[2])
		require.NoError(t, <-synced)
		require.Equal(t, []string{"finit_module dummy insmod dummy.ko numdummies=2"}, r.names())

		// The wait for incomplete events and for the backlog has a bound.
		began := time.Now()
		r.kernel.send(strings.SplitAfter(withSerial(rmmodLines, 4), "\n")[0])
		require.NoError(t, r.Sync(t.Context()))
		require.Equal(t, []string{"delete_module  "}, r.names())
		require.InDelta(t, grace, time.Since(began), float64(2*drainPause))
		r.kernel.with(func() { r.kernel.backlog = slices.Repeat([]uint32{1}, 10000) })
		began = time.Now()
		require.NoError(t, r.Sync(t.Context()))
		require.InDelta(t, drainTimeout, time.Since(began), float64(time.Second))

		// A cancelled Sync does not disturb the source.
		ctx, cancel := context.WithTimeout(t.Context(), drainPause/2)
		defer cancel()
		require.ErrorIs(t, r.Sync(ctx), context.DeadlineExceeded)
		r.kernel.with(func() { r.kernel.backlog = nil })
	})
}

func TestDeniedCallsAreReportedEachMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := listenTo(t, newFakeKernel(statusOn, 0))
		for serial := range 50 {
			r.kernel.send(withSerial(deniedLines, serial))
		}
		synctest.Wait()
		require.Empty(t, r.events)
		time.Sleep(foldFor)
		synctest.Wait()
		require.Len(t, r.events, 1)
		require.EqualValues(t, 50, *(<-r.events).Count)
		require.EqualValues(t, 49, r.Sensor().Denied)

		r.kernel.send(withSerial(deniedLines, 60) + withSerial(insmodLines, 61))
		synctest.Wait()
		require.Equal(t, []string{"init_module  /init flood", "finit_module dummy insmod dummy.ko numdummies=2"}, r.names())
		r.kernel.send(withSerial(deniedLines, 62))
		require.NoError(t, r.Sync(t.Context()))
		require.Len(t, r.events, 1)
		r.kernel.send(withSerial(deniedLines, 63))
		r.cancel()
		require.NoError(t, <-r.ended)
		require.Len(t, r.events, 2)
	})
}

func TestBackfillStartsAtItsBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kernel := newFakeKernel(statusOn, 0)
		r := &running{Source: New(nil), kernel: kernel, events: make(chan kmodquery.Event, 10)}
		r.open = func() (kernelConn, error) { return kernel, nil }
		r.Backfill(time.UnixMilli(1795529435181), time.Time{})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- r.Run(ctx, func() {}, func(d kmodquery.Delivery) { r.events <- d.Event }) }()
		kernel.send(withSerial(insmodLines, 2) + strings.ReplaceAll(withSerial(rmmodLines, 3), "435.180", "435.181"))
		synctest.Wait()
		require.Equal(t, []string{"delete_module dummy rmmod dummy"}, r.names())
		cancel()
		require.NoError(t, <-ended)
	})
}

func TestKernelErrorsNameTheRemedy(t *testing.T) {
	for errno, want := range map[unix.Errno]struct {
		text    string
		isFinal bool
	}{
		unix.EPERM:           {"run as root, or with CAP_AUDIT_CONTROL and CAP_AUDIT_READ", false},
		unix.ECONNREFUSED:    {"run in the host's user namespace", false},
		unix.EPROTONOSUPPORT: {"this kernel has no audit; needs CONFIG_AUDIT", true},
	} {
		err := forbidden(errno)
		require.ErrorContains(t, err, want.text)
		require.Equal(t, want.isFinal, errors.Is(err, kmodquery.ErrNotSupported))
		require.Equal(t, !want.isFinal, errors.Is(err, errForbidden))
	}
	require.Equal(t, unix.EIO, forbidden(unix.EIO))
	kernel := newFakeKernel(statusOn, 0)
	kernel.refuse = unix.EINVAL
	require.ErrorContains(t, (&setup{kernel: kernel}).start(), "needs CONFIG_AUDITSYSCALL")
	kernel.refuse = unix.ENOMEM
	require.NotErrorIs(t, (&setup{kernel: kernel}).start(), kmodquery.ErrNotSupported)
}

func TestListenerCompletesARoundEveryInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := listenTo(t, newFakeKernel(statusOn, 0))
		for range 10 {
			time.Sleep(progress.Interval)
			synctest.Wait()
			require.LessOrEqual(t, time.Since(r.LastRound()), progress.Interval)
		}
	})
}

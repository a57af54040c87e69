//go:build linux

package ebpf

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/bpf"
	"github.com/kmodquery/kmodquery/linux/host"
)

func canaryRecord(value uint64) bpf.Record {
	return record(bpf.SystemCall, func(r *bpf.Record) {
		r.Call = &bpf.Call{Name: bpf.InitModule, Result: -1, HasArguments: true, Canary: value}
	})
}

func TestCanariesAreNoEvents(t *testing.T) {
	r := newReading(t)
	r.take(canaryRecord(host.Canary()), canaryRecord(7)) // the latter of an earlier process
	require.NoError(t, r.finish(start))
	require.Empty(t, r.events)
	require.Empty(t, r.attempts.byID)
}

// testedHooks are hooks that are tested with a clock of the test's.
type testedHooks struct {
	*run
	seen    *reading
	fakes   fakeHooks
	now     time.Time
	watched []time.Duration // calls of KeepWatch
	ready   int
	wrong   error // what checks find
}

// fakeHooks stand in for programs.
type fakeHooks struct {
	isBlind, isCrowded bool
	answer             error // of the calls
	users, each        uint64
	unread             int // calls of HasRead that find records unread
	made               []bpf.Canary
	onCall             func()
}

func (f *fakeHooks) Canary(value uint64, _ func(uint64) error) (bpf.Canary, error) {
	if f.users += f.each; f.onCall != nil {
		f.onCall()
	}
	n := uint64(len(f.made))
	c := bpf.Canary{Value: value, Set: 3, From: 100 * n, End: 100*n + 50, IsCrowded: f.isCrowded}
	f.made = append(f.made, c)
	return c, f.answer
}

func (f *fakeHooks) HasRead(bpf.Canary) bool { f.unread--; return f.unread < 0 }

func (f *fakeHooks) Hooks() []string { return []string{"init_module (fentry)"} }

func (f *fakeHooks) Unattached() []error { return nil }

func (f *fakeHooks) Leftovers() []error { return nil }

func (f *fakeHooks) Unpinned() error { return nil }

func (f *fakeHooks) Flush() error { return nil }

func (f *fakeHooks) UserCalls() uint64 { return f.users }

func newTestedHooks(t *testing.T) *testedHooks {
	h := &testedHooks{seen: newReading(t), now: time.Now()}
	s := New(Options{KeepWatch: func(at time.Time) { h.watched = append(h.watched, at.Sub(start)) }})
	s.ready = func() { h.ready++ }
	h.run = &run{source: s, shown: &h.fakes, reader: h.seen.reader, arming: &rearming{}, sync: s.health.NewBarrier(time.Second)}
	h.hooks.check = func() error { return h.wrong }
	h.canary = canary{programs: &h.fakes, doubt: h.source.markUnreliable}
	h.source.show(h.shown, nil)
	h.canary.begin(h.now)
	return h
}

// step makes what is due and reads the record.
func (h *testedHooks) step() {
	made := len(h.fakes.made)
	h.testHooks(h.now)
	if len(h.fakes.made) > made && !h.fakes.isBlind && h.fakes.answer == nil {
		h.record(h.fakes.made[made])
	}
}

func (h *testedHooks) record(c bpf.Canary) {
	r := canaryRecord(c.Value)
	h.takeCanary(&r, bpf.Position{Set: c.Set, Offset: c.End})
}

// next goes to the time of the next call, and makes it.
func (h *testedHooks) next() time.Duration {
	pause := h.canaryDue().Sub(h.now)
	h.now = h.canaryDue()
	h.step()
	return pause
}

// missOne makes a call that the hooks miss.
func (h *testedHooks) missOne() { h.fakes.isBlind = true; h.next() }

// miss makes calls until the hooks have missed enough.
func (h *testedHooks) miss() {
	h.fakes.isBlind = true
	for range canaryTries {
		h.next()
	}
}

func (h *testedHooks) state() string { return h.source.Sensor().State }

func (h *testedHooks) why() string { return h.source.Sensor().Reason }

// makeUnread makes the next records arrive after the call was judged as unread.
func (h *testedHooks) makeUnread() { h.fakes.unread = 1 }

func TestACanaryThatIsRecordedEndsTheSeries(t *testing.T) {
	h := newTestedHooks(t)
	h.makeUnread()
	h.next()
	require.Zero(t, h.canaryDue())
	h.testHooks(h.now.Add(time.Hour))
	require.Len(t, h.fakes.made, 1, "it is not periodic")
	require.Empty(t, h.seen.events)
	require.Empty(t, h.why())
	require.Equal(t, kmodquery.StateActive, h.state())
	require.Zero(t, h.ready)
}

func TestMissedCanariesAreReported(t *testing.T) {
	h := newTestedHooks(t)
	h.fakes.isBlind = true
	h.next()
	require.Equal(t, canaryPause, h.next())
	require.Empty(t, h.seen.events, "the kernel may have skipped a program")
	require.Equal(t, 2*canaryPause, h.next())
	require.Equal(t, []string{"sensor_tampered"}, h.seen.names())
	require.Equal(t, errNoCanary.Error(), h.seen.events[0].Reason)
	require.Equal(t, kmodquery.StateFailed, h.state())
	require.Equal(t, errNoCanary.Error(), h.why())

	// What another process or a check sets right does not make the hooks run.
	h.source.show(h.shown, errors.New("pinned again"))
	require.Equal(t, kmodquery.StateFailed, h.state())
	require.Contains(t, h.why(), errNoCanary.Error())

	// They are tested again, and the same is not reported again.
	for range canaryTries {
		h.next()
	}
	require.Len(t, h.seen.events, 1)

	h.fakes.isBlind = false
	h.makeUnread()
	require.Equal(t, canaryRest, h.next())
	require.Equal(t, kmodquery.StateActive, h.state())
	require.Contains(t, h.why(), "recorded again")
	require.Zero(t, h.canaryDue())
	require.Equal(t, 1, h.ready)
}

// One that arrives after two that were skipped is enough.
func TestSkippedProgramsAreNotReported(t *testing.T) {
	h := newTestedHooks(t)
	h.fakes.isBlind = true
	h.next()
	h.next()
	h.fakes.isBlind = false
	h.makeUnread()
	h.next()
	require.Zero(t, h.canaryDue())
	require.Empty(t, h.seen.events)
}

// Losses elsewhere excuse nothing, and a ring that is full excuses one call.
func TestOnlyAFullRingExcusesAMiss(t *testing.T) {
	h := newTestedHooks(t)
	h.fakes.isCrowded, h.fakes.isBlind = true, true
	var pauses []time.Duration
	for range 14 {
		pauses = append(pauses, h.next())
	}
	require.Equal(t, []time.Duration{0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600, 600}, seconds(pauses))
	require.Empty(t, h.seen.events)
	require.Equal(t, "the hooks were not tested: the ring buffer was nearly full", h.why())
	require.Equal(t, kmodquery.StateActive, h.state())
	h.fakes.isCrowded = false
	h.source.health.Lost.Add(100)
	for range canaryTries {
		h.next()
	}
	require.Len(t, h.seen.events, 1)
	require.Equal(t, errNoCanary.Error(), h.why())

	h = newTestedHooks(t)
	h.fakes.isCrowded = true
	h.fakes.isBlind = true
	h.next()
	h.fakes.isBlind = false
	h.makeUnread()
	h.next()
	require.Empty(t, h.why())
}

// Any user can make denied calls, which may use up the kernel's memory of returns.
func TestAFloodOfDeniedCallsSpreadsTheTries(t *testing.T) {
	h := newTestedHooks(t)
	h.fakes.isBlind, h.fakes.each = true, canaryFlood
	h.fakes.users = 7 // of before
	h.fakes.onCall = func() { h.fakes.users++ }
	began := h.now
	for len(h.seen.events) == 0 {
		h.next()
	}
	require.Len(t, h.fakes.made, floodTries)
	require.Greater(t, h.now.Sub(began), 15*time.Minute)
}

// What a check finds explains the miss, and is all that is reported.
func TestHooksAreCheckedBeforeAMissCounts(t *testing.T) {
	h := newTestedHooks(t)
	h.fakes.isBlind = true
	h.wrong = bpf.ErrChanged
	for range 2 * canaryTries {
		h.next()
	}
	require.Equal(t, []string{"sensor_tampered"}, h.seen.names())
	require.Equal(t, bpf.ErrChanged.Error(), h.seen.events[0].Reason)

	h = newTestedHooks(t)
	h.wrong = errors.New("detached")
	h.missOne()
	require.Equal(t, "detached", h.seen.events[0].Reason)
	require.Zero(t, h.canaryDue(), "they do not run")

	h = newTestedHooks(t)
	h.wrong = fmt.Errorf("pins: %w", bpf.ErrUnpinned)
	h.miss()
	require.Len(t, h.seen.events, 2, "programs run without pins")
	require.Equal(t, errNoCanary.Error(), h.seen.events[1].Reason)
}

func TestTheKernelsOwnAnswerIsReported(t *testing.T) {
	h := newTestedHooks(t)
	h.canary.doubt = func(error) { t.Error("other hooks would not help") }
	h.fakes.answer = answerError(unix.ENOEXEC)
	for range canaryTries {
		require.Empty(t, h.seen.events)
		h.next()
	}
	require.Equal(t, []string{"sensor_tampered"}, h.seen.names())
	require.Equal(t, `the kernel answered a load that the recorder attempted itself, without the right to load (a canary), with "exec format error" instead of EPERM, so code in the kernel handles init_module`, h.why())
	require.Equal(t, kmodquery.StateFailed, h.state())
}

func TestWhatCannotBeTestedIsSaid(t *testing.T) {
	h := newTestedHooks(t)
	h.fakes.answer = errors.New("a filter refuses it")
	h.next()
	require.Zero(t, h.canaryDue())
	require.Equal(t, "the hooks were not tested: a filter refuses it", h.why())
	h.source.show(h.shown, errors.New("pinned again"))
	require.Equal(t, "pinned again; the hooks were not tested: a filter refuses it", h.why())
	require.Empty(t, h.seen.events)

	h = newTestedHooks(t)
	h.fakes.answer = errNoReturn
	h.next()
	require.Equal(t, canaryPause, h.next())
	require.Equal(t, "the hooks were not tested: init_module did not return in time", h.why())
	h.fakes.answer = nil
	h.makeUnread()
	h.next()
	require.Empty(t, h.why())
	require.Empty(t, h.seen.events)
}

// A record of another set, of another call or from before the call is not that of the canary.
func TestOnlyTheCallsOwnRecordCounts(t *testing.T) {
	h := newTestedHooks(t)
	h.fakes.isBlind, h.fakes.unread = true, 1
	h.next()
	made := h.fakes.made[0]
	for _, other := range []bpf.Canary{
		{Value: made.Value + 2, Set: made.Set, End: made.End},
		{Value: made.Value, Set: made.Set - 1, End: made.End},
		{Value: made.Value, Set: made.Set, End: made.From},
	} {
		h.record(other)
		require.NotNil(t, h.canary.awaited)
	}
	h.record(made)
	require.Nil(t, h.canary.awaited)
}

// Hooks are attached again once for canaries that they miss, however they came to be attached.
func TestMissedCanariesAttachHooksAgainOnce(t *testing.T) {
	for _, test := range []struct {
		name string
		cure error
		want error
	}{
		{"attached at the start", nil, errNoCanary},
		{"attached again for another reason", errors.New("a load was missed"), errNoCanary},
		{"attached again for a canary", errNoCanary, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newTestedHooks(t)
			var doubt error
			h.source.cure, h.canary.doubt = test.cure, func(err error) { doubt = err }
			h.miss()
			require.Equal(t, test.want, doubt)
		})
	}
}

// Nobody watches while canaries are missed: the gap ends when one is recorded.
func TestTheTimeOfMissedCanariesIsAGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestedHooks(t)
		var gap [2]time.Time
		var last time.Time
		o := &h.source.options
		o.KeepGap = func(start, end time.Time) { gap = [2]time.Time{start, end} }
		o.KeepWatch = func(at time.Time) { last = at }
		o.Watched = func() time.Time { return last }
		check := func() { h.hooks.last = time.Time{}; require.NoError(t, h.checkHooks()) }
		check()
		require.Zero(t, last, "no canary was recorded yet")
		h.makeUnread()
		h.step()
		require.Equal(t, time.Now(), last)

		time.Sleep(time.Hour)
		check()
		began := last
		require.Equal(t, time.Now(), began)
		h.canary.begin(time.Now())
		h.fakes.isBlind = true
		for range canaryTries + 1 {
			time.Sleep(time.Until(h.canaryDue()))
			h.now = time.Now()
			h.step()
			check()
			require.Equal(t, began, last)
		}
		require.Zero(t, gap)
		h.fakes.isBlind = false
		h.makeUnread()
		time.Sleep(time.Until(h.canaryDue()))
		h.now = time.Now()
		h.step()
		if booted := time.Now().Add(-host.SinceBoot()); began.Before(booted) {
			began = booted // this machine was not up for so long
		}
		require.WithinDuration(t, began, gap[0], time.Second)
		require.Equal(t, time.Now(), gap[1])
		check()
		require.Equal(t, time.Now(), last)
	})
}

// Reading must not wake for a canary that waits until the hooks are attached.
func TestNoCanaryIsDueWhileHooksAreAttached(t *testing.T) {
	h := newTestedHooks(t)
	require.Equal(t, h.now, h.canaryDue())
	h.arming.done = make(chan rearmed)
	require.Zero(t, h.canaryDue())
	h.step()
	require.Empty(t, h.fakes.made)
}

// What other processes change, and records that are filtered, cause canaries at once, but not
// each time. The canaries of the start are not among them.
func TestCausesBeginASeriesOnceAnHour(t *testing.T) {
	h := newTestedHooks(t)
	h.makeUnread()
	h.next()
	at := func(after time.Duration, cause func(time.Time)) bool {
		cause(h.now.Add(after))
		isDue := h.canary.isOpen
		h.canary.end()
		return isDue
	}
	filtered := func(now time.Time) {
		h.filterDue = time.Time{}
		h.reportFiltered([]bpf.Filtered{{Kind: bpf.ModuleLoad, First: 7, Last: 7}}, now)
	}
	require.True(t, at(filterPause, filtered), "soon after the start")
	require.False(t, at(2*filterPause, filtered))
	require.True(t, at(filterPause+canaryRest, filtered))
	require.False(t, at(filterPause+canaryRest+1, h.canary.cause))

	h.canary.causedAt = time.Time{}
	h.changed = bpf.ErrChanged
	require.NoError(t, h.checkHooks())
	require.True(t, h.canary.isOpen, "what was changed is set right")

	h.canary.end()
	h.canary.causedAt = time.Time{}
	_, err := h.rearmed(rearmed{doubt: bpf.ErrUnpinned})
	require.NoError(t, err)
	require.True(t, h.canary.isOpen, "pins are made again")

	off := canary{}
	off.cause(h.now)
	off.begin(h.now)
	require.Equal(t, canary{}, off, "they are switched off")
}

// A process that ends while hooks are attached again leaves what is half done to the next.
func TestTheEndChecksNothing(t *testing.T) {
	h := newTestedHooks(t)
	h.hooks.check = func() error { t.Error("a check"); return bpf.ErrChanged }
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	h.source.doubt = errors.New("a load was missed")
	next, err := h.maintainHooks(ctx)
	require.NoError(t, err)
	require.Nil(t, next)
	require.Nil(t, h.arming.done)
	require.Empty(t, h.fakes.made)
	require.Empty(t, h.seen.events)
}

// The canaries of a process are known to later ones before the first is made.
func TestCanariesAreStoredBeforeTheFirst(t *testing.T) {
	h := newTestedHooks(t)
	stored := make([]uint64, maxCanaries)
	h.source.options.Canaries = func() []uint64 { return stored }
	h.source.options.KeepCanaries = func(all []uint64) {
		require.Empty(t, h.fakes.made)
		stored = all
	}
	h.makeUnread()
	h.next()
	require.Len(t, stored, maxCanaries)
	require.Equal(t, host.CanaryOf(h.fakes.made[0].Value), stored[maxCanaries-1])
	h.source.options.KeepCanaries = func([]uint64) { t.Error("once") }
	h.canary.begin(h.now)
	h.makeUnread()
	h.next()
}

// A canary changes nothing in this process, and one that a filter refuses says nothing about
// the hooks.
func TestCanaryKnowsWhoRefusedIt(t *testing.T) {
	var before, after [2]unix.CapUserData
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	require.NoError(t, unix.Capget(&header, &before[0]))
	err := callCanary(host.Canary())
	require.NoError(t, unix.Capget(&header, &after[0]))
	require.Equal(t, before, after)
	if !errors.Is(err, answerError(unix.ENOSYS)) && err != nil { // in a sandbox, and in a container
		require.ErrorContains(t, err, "a filter of system calls (seccomp) refuses init_module")
	}

	outcome := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			outcome <- err
			return
		}
		refuse := []unix.SockFilter{
			{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS},
			{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: unix.SYS_INIT_MODULE},
			{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
			{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
		}
		if err := addFilter(refuse); err != nil {
			outcome <- err
			return
		}
		outcome <- callHere(host.Canary())
	}()
	require.ErrorContains(t, <-outcome, "a filter of system calls (seccomp) refuses init_module")
}

// A filter may ask a process that does not answer. No more calls are made until it does.
func TestACallThatDoesNotReturnHoldsUpNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hangs := make(chan struct{})
		began := time.Now()
		require.ErrorIs(t, callInTime(1, func(uint64) error { <-hangs; return nil }), errNoReturn)
		require.Equal(t, canaryTime, time.Since(began))
		require.ErrorIs(t, callInTime(1, func(uint64) error { t.Error("a second call"); return nil }), errNoReturn)
		close(hangs)
		synctest.Wait()
		require.NoError(t, callInTime(1, func(uint64) error { return nil }))
	})
}

//go:build linux

package ebpf

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/bpf"
)

// Cause for doubt that comes again and again makes the attempts rarer.
func TestAttemptsToAttachAgainBecomeRarer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{})
		s.doubt = errors.New("a load was missed")
		a := &rearming{}
		attempt := func() time.Duration {
			a.start(t.Context(), func(context.Context) rearmed { return rearmed{} }, func() {})
			require.Zero(t, a.due(s), "one is under way")
			<-a.done
			a.ended(time.Now())
			return time.Until(a.due(s))
		}
		require.False(t, a.due(s).After(time.Now()), "the first is made at once")
		var pauses []time.Duration
		for range 8 {
			pauses = append(pauses, attempt())
			time.Sleep(time.Until(a.due(s)))
		}
		require.Equal(t, []time.Duration{1, 2, 4, 8, 16, 32, 60, 60}, seconds(pauses))
		time.Sleep(time.Second)
		require.Equal(t, firstRearm, attempt(), "there was none for long")
		s.doubt = nil
		require.Zero(t, a.due(s))
	})
}

// A process that is told to end does not wait for the kernel to verify the programs, and no
// other end of a run closes programs that an attempt uses.
func TestTheEndOfAProcessWaitsForNoAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		end := make(chan struct{})
		start := func() *rearming {
			a := &rearming{}
			a.start(t.Context(), func(ctx context.Context) rearmed {
				<-ctx.Done()
				<-end
				return rearmed{programs: &bpf.Programs{}}
			}, func() {})
			return a
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.NoError(t, start().close(ctx, &bpf.Programs{}))
		closed := false
		go func() {
			closed = start().close(t.Context(), &bpf.Programs{}) == nil
		}()
		synctest.Wait()
		require.False(t, closed)
		close(end)
		synctest.Wait()
		require.True(t, closed)
	})
}

func seconds(list []time.Duration) (all []time.Duration) {
	for _, d := range list {
		all = append(all, d/time.Second)
	}
	return all
}

// An attempt that fails leaves the programs in use, unless these do not run.
func TestAFailedAttemptKeepsTheHooks(t *testing.T) {
	s := New(Options{})
	s.health.Started([]string{"module_load (kprobe)"}, "", nil)
	r := &run{source: s, arming: &rearming{}}
	doubt, failed := errors.New("a load was missed"), errors.New("out of memory")
	next, err := r.rearmed(rearmed{doubt: doubt, err: failed})
	require.NoError(t, err)
	require.Nil(t, next)
	require.Equal(t, kmodquery.StateFailed, s.Sensor().State)
	require.Equal(t, "a load was missed; out of memory", s.Sensor().Reason)
	require.Equal(t, `["module_load (kprobe)"]`, s.Sensor().Hooks)

	s.isBlind = true
	_, err = r.rearmed(rearmed{doubt: doubt, err: failed})
	require.ErrorIs(t, err, failed)
	require.ErrorIs(t, err, doubt)

	want := &bpf.Programs{}
	next, err = r.rearmed(rearmed{doubt: doubt, programs: want})
	require.NoError(t, err)
	require.Same(t, want, next)
}

// Which checks make the hooks unreliable, and since when nothing watches.
func TestChecksCauseDoubt(t *testing.T) {
	for _, test := range []struct {
		name    string
		err     error
		isBlind bool
		state   string
		events  []string
	}{
		{"all is well", nil, false, kmodquery.StateActive, []string{}},
		{"pins are gone", bpf.ErrUnpinned, false, kmodquery.StateActive, []string{"sensor_tampered"}},
		{"maps were changed", bpf.ErrChanged, false, kmodquery.StateFailed, []string{"sensor_tampered"}}, // until the next check
		{"hooks are gone", errors.New("detached"), true, kmodquery.StateFailed, []string{"sensor_tampered"}},
		{"ftrace is off", bpf.ErrFtraceOff, true, kmodquery.StateActive, []string{"sensor_tampered"}}, // until Run ends
		{"more can be attached", bpf.ErrMoreHooks, true, kmodquery.StateFailed, []string{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			watched := 0
			s := New(Options{KeepWatch: func(time.Time) { watched++ }})
			s.health.Started(nil, "", nil)
			s.ready = func() { watched++ }
			looks := 0
			reading := newReading(t)
			r := &run{source: s, reader: reading.reader, arming: &rearming{}, sync: s.health.NewBarrier(time.Second)}
			r.hooks.check = func() error {
				if looks++; r.arming.done != nil {
					return nil
				}
				return test.err
			}
			r.checkHooks()
			require.Equal(t, test.isBlind, s.isBlind)
			require.Equal(t, test.state, s.Sensor().State)
			require.Equal(t, test.events, reading.names())
			r.checkHooks()
			require.Equal(t, !test.isBlind, watched > 0, "the time of a failed check is not one of watching")
			before := watched
			r.arming.done, r.hooks.last = make(chan rearmed), time.Time{}
			r.checkHooks()
			require.Equal(t, 2, looks, "the rounds go on while hooks are attached beside them")
			require.Equal(t, before, watched)
			require.True(t, r.hooks.due().After(time.Now()))
		})
	}
}

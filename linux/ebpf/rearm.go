//go:build linux

package ebpf

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kmodquery/kmodquery/bpf"
)

const (
	// firstRearm is the least time between two attempts to attach the hooks again if they
	// seem to run. Each attempt doubles it up to lastRearm, until there was none for longer.
	firstRearm = time.Second
	lastRearm  = time.Minute
)

// A rearming attaches new programs while a run reads those in use: whoever causes doubt,
// again and again, must not keep loads from being recorded.
type rearming struct {
	pause    time.Duration // before the next attempt
	last     time.Time     // when the last attempt ended
	done     chan rearmed  // nil if none is under way
	end      context.CancelFunc
	reported string
}

// rearmed is the outcome of an attempt, which doubt caused. programs is nil if those in use
// were only pinned again, or after an error.
type rearmed struct {
	doubt    error
	programs *bpf.Programs
	err      error
}

// due returns when the next attempt is due; zero if none is or one is under way.
func (a *rearming) due(s *Source) time.Time {
	if a.done != nil || s.failureOf(&s.doubt) == nil {
		return time.Time{}
	}
	return a.last.Add(a.pause)
}

// report reports why the hooks are attached again, unless it did so the last time.
func (a *rearming) report(s *Source, doubt error) {
	if s.report == nil || doubt.Error() == a.reported {
		return
	}
	a.reported = doubt.Error()
	s.report(doubt)
}

// start begins an attempt. Once its outcome is there, it calls wake.
func (a *rearming) start(ctx context.Context, attempt func(context.Context) rearmed, wake func()) {
	ctx, a.end = context.WithCancel(ctx)
	done := make(chan rearmed, 1)
	a.done = done
	go func() {
		done <- attempt(ctx)
		wake()
	}()
}

// ended notes that an attempt has ended.
func (a *rearming) ended(now time.Time) {
	a.end()
	if a.done = nil; a.pause == 0 || now.Sub(a.last) > lastRearm {
		a.pause = firstRearm / 2
	}
	a.pause, a.last = min(2*a.pause, lastRearm), now
}

// close closes the programs in use, once an attempt, which uses them, has ended. It does not wait
// for that after ctx has ended: the kernel may take long to verify programs, which cannot be
// interrupted.
func (a *rearming) close(ctx context.Context, programs *bpf.Programs) error {
	if a.done == nil {
		return programs.Close()
	}
	a.end()
	closed := make(chan error, 1)
	go func() {
		if late := <-a.done; late.programs != nil {
			_ = late.programs.Close()
		}
		closed <- programs.Close()
	}()
	select {
	case err := <-closed:
		return err
	case <-ctx.Done():
		return nil
	}
}

// rearm attaches the hooks again if there is cause to doubt them, and returns the new
// programs once they have replaced the others. It returns an error if the hooks do not run
// and cannot be attached, so that other sources stand in.
func (r *run) rearm(ctx context.Context) (*bpf.Programs, error) {
	s, a := r.source, r.arming
	doubt := s.failureOf(&s.doubt)
	switch {
	case a.done != nil:
		select {
		case outcome := <-a.done:
			a.ended(time.Now())
			return r.rearmed(outcome)
		default:
			return nil, nil
		}
	case doubt == nil, ctx.Err() != nil, !s.isBlind && time.Now().Before(a.due(s)):
		return nil, nil
	}
	a.report(s, doubt)
	r.programs.Restore()
	a.start(ctx, func(ctx context.Context) rearmed {
		outcome := rearmed{doubt: doubt}
		if errors.Is(doubt, bpf.ErrUnpinned) {
			outcome.err = r.programs.Repin()
		} else {
			outcome.programs, outcome.err = r.programs.Renew(ctx, s.options.bpf())
		}
		return outcome
	}, func() { _ = r.programs.Flush() }) // fails only after Close
	return nil, nil
}

// rearmed handles the outcome of an attempt. After an error the programs stay in use.
func (r *run) rearmed(outcome rearmed) (*bpf.Programs, error) {
	s := r.source
	switch err := outcome.err; {
	case err != nil && s.isBlind:
		return nil, fmt.Errorf("%w; %w", outcome.doubt, err)
	case err != nil:
		s.health.Degraded(fmt.Errorf("%w; %w", outcome.doubt, err))
	case outcome.programs == nil:
		s.mu.Lock()
		if errors.Is(s.doubt, bpf.ErrUnpinned) { // none came meanwhile
			s.doubt = nil
		}
		s.mu.Unlock()
		r.tampered = nil
		s.show(r.shown, fmt.Errorf("pinned again at %s: %w", nowText(), outcome.doubt))
		r.canary.cause(time.Now())
	}
	return outcome.programs, nil
}

func nowText() string { return time.Now().UTC().Format(time.RFC3339) }

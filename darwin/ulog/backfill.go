package ulog

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// A backfill reads missing parts of the log with log show: the messages from before
// the stream began, and those that the stream dropped. It runs one log show at a
// time. It is not safe for concurrent use.
type backfill struct {
	source *Source

	wanted    *time.Time    // start of the missing part that no log show reads yet; nil if there is none
	notBefore time.Time     // the earliest start of the next log show
	pause     time.Duration // between the end of a log show and the start of the next

	command   *command // the running log show, or nil
	join      *joiner
	remaining time.Time // start of the part that it has not printed yet
	began     time.Time
	timedOut  func() bool
	tries     int
}

// want adds the part of the log from a time until now to what is missing.
func (f *backfill) want(from, now time.Time) {
	if f.command == nil && now.Sub(f.notBefore) > maxShowPause {
		f.pause = f.source.timeouts.retry // the stream has not dropped messages for long
	}
	if f.wanted == nil || from.Before(*f.wanted) {
		f.wanted = &from
	}
}

// missing returns the start of the missing part, or nil if nothing is missing.
func (f *backfill) missing() *time.Time {
	if f.command != nil && (f.wanted == nil || f.remaining.Before(*f.wanted)) {
		return &f.remaining
	}
	return f.wanted
}

// reach records that the running log show printed a record; it prints them in order.
func (f *backfill) reach(at time.Time) {
	if remaining := at.Add(-overlap); remaining.After(f.remaining) {
		f.remaining = remaining
	}
}

// due returns when start has something to do, or the zero time if it has nothing.
func (f *backfill) due() time.Time {
	if f.wanted != nil && f.command == nil {
		return f.notBefore
	}
	return time.Time{}
}

// lines returns the lines of the running log show, or nil if none runs.
func (f *backfill) lines() <-chan []byte {
	if f.command == nil {
		return nil
	}
	return f.command.lines
}

// start starts a log show if one is due.
func (f *backfill) start(ctx context.Context, now time.Time) error {
	if f.wanted == nil || f.command != nil || now.Before(f.notBefore) {
		return nil
	}
	option, start := "--start", f.wanted.Add(-margin).UTC().Format("2006-01-02 15:04:05-0700")
	if f.wanted.Equal(boot) {
		option, start = "--last", "boot"
	}
	ctx, cancel := f.source.withTimeout(ctx, f.source.timeouts.show)
	command, err := f.source.startLog(ctx, cancel, "show", "--info", option, start)
	if err != nil {
		return err
	}
	f.timedOut = func() bool { return errors.Is(context.Cause(ctx), context.DeadlineExceeded) }
	f.command, f.join, f.remaining, f.began = command, newJoiner(), *f.wanted, now
	f.wanted = nil
	f.tries++
	return nil
}

// end handles the end of the running log show's output and returns its error. After
// an error the rest is wanted again. isOver reports that the part is complete, or
// that showTries tries have failed.
func (f *backfill) end(now time.Time) (isOver bool, err error) {
	err = f.command.wait()
	f.command = nil
	if f.timedOut() {
		err = fmt.Errorf("log show did not end within %v", f.source.timeouts.show)
	}
	f.notBefore = now.Add(f.pause)
	f.pause = min(2*f.pause, maxShowPause)
	if err != nil && f.tries < showTries {
		f.want(f.remaining, now)
		return false, err
	}
	f.tries = 0
	return true, err
}

// stop ends the running log show, if there is one.
func (f *backfill) stop() {
	if f.command != nil {
		f.command.stop()
		f.command = nil
	}
}

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
	pause  time.Duration // between the end of a log show and the start of the next

	isWanted  bool
	wanted    time.Time // start of the missing part; zero is the boot
	notBefore time.Time // the earliest start of the next log show

	command  *command // the running log show, or nil
	join     *joiner
	from     time.Time // start of the part that it reads
	reached  time.Time // time of its last record; log show prints records in order
	began    time.Time
	timedOut func() bool
	tries    int
}

// want adds the part of the log from a time until now to what is missing.
func (f *backfill) want(from, now time.Time) {
	if f.command == nil && now.Sub(f.notBefore) > maxShowPause {
		f.pause = f.source.timeouts.retry // the stream has not dropped messages for long
	}
	if !f.isWanted || from.Before(f.wanted) {
		f.wanted = from
	}
	f.isWanted = true
}

// missing returns the start of the missing part, or nil if nothing is missing.
func (f *backfill) missing() *time.Time {
	from, isMissing := f.wanted, f.isWanted
	if remaining := f.remaining(); f.command != nil && (!isMissing || remaining.Before(from)) {
		from, isMissing = remaining, true
	}
	if !isMissing {
		return nil
	}
	return &from
}

// remaining returns the start of the part that the running log show has not
// printed yet.
func (f *backfill) remaining() time.Time {
	if remaining := f.reached.Add(-overlap); remaining.After(f.from) {
		return remaining
	}
	return f.from
}

func (f *backfill) isDone() bool { return f.missing() == nil }

// due returns when start has something to do, or the zero time if it has nothing.
func (f *backfill) due() time.Time {
	if f.isWanted && f.command == nil {
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
	if !f.isWanted || f.command != nil || now.Before(f.notBefore) {
		return nil
	}
	arguments := []string{"show", "--info"}
	if f.wanted.IsZero() {
		arguments = append(arguments, "--last", "boot")
	} else {
		arguments = append(arguments, "--start", f.wanted.Add(-margin).UTC().Format("2006-01-02 15:04:05-0700"))
	}
	ctx, cancel := f.source.withTimeout(ctx, f.source.timeouts.show)
	command, err := startLog(ctx, f.source.options.Programs.Log, f.source.skipped, arguments...)
	if err != nil {
		cancel()
		return err
	}
	stop := command.cancel
	command.cancel = func() { stop(); cancel() }
	f.timedOut = func() bool { return errors.Is(context.Cause(ctx), context.DeadlineExceeded) }
	f.command, f.join, f.from, f.reached, f.began = command, newJoiner(), f.wanted, time.Time{}, now
	f.isWanted, f.wanted = false, time.Time{}
	f.tries++
	return nil
}

// end handles the end of the running log show's output and returns its error. After
// an error the rest is wanted again. isOver reports that the part is complete, or
// that showTries tries have failed.
func (f *backfill) end(now time.Time) (isOver bool, err error) {
	hasTimedOut := f.timedOut()
	err = f.command.wait()
	f.command = nil
	if hasTimedOut {
		err = fmt.Errorf("log show did not end within %v", f.source.timeouts.show)
	}
	f.notBefore = now.Add(f.pause)
	f.pause = min(2*f.pause, maxShowPause)
	if err != nil && f.tries < showTries {
		f.want(f.remaining(), now)
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

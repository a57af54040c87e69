package ulog

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// A past reads what of the log is missing, with log show: what was said before
// the stream began, and what the stream dropped. One reading runs at a time. It
// is not safe for concurrent use.
type past struct {
	options *Options
	skipped func()
	every   time.Duration // how long after a reading the next one may begin

	isWanted bool
	wanted   time.Time // from when on; the zero time is the boot
	notUntil time.Time // the next reading begins

	command  *command // that runs, or nil
	join     *joiner
	from     time.Time // from when on it reads
	reached  time.Time // moment of its last record: log show gives them in their order
	timedOut func() bool
	began    time.Time
	tries    int
}

// want asks for what was said from a moment on.
func (p *past) want(from, now time.Time) {
	if p.command == nil && now.Sub(p.notUntil) > showMost {
		p.every = p.options.RetryTime // it has been quiet
	}
	if !p.isWanted || from.Before(p.wanted) {
		p.wanted = from
	}
	p.isWanted = true
}

// missing is from when on something is, nil where nothing is.
func (p *past) missing() *time.Time {
	from, isMissing := p.wanted, p.isWanted
	if rest := p.rest(); p.command != nil && (!isMissing || rest.Before(from)) {
		from, isMissing = rest, true
	}
	if !isMissing {
		return nil
	}
	return &from
}

// rest is from when on the reading that runs has not told.
func (p *past) rest() time.Time {
	if rest := p.reached.Add(-overlap); rest.After(p.from) {
		return rest
	}
	return p.from
}

func (p *past) isDone() bool { return p.missing() == nil }

// due is when start has something to do; the zero time where it has nothing.
func (p *past) due() time.Time {
	if p.isWanted && p.command == nil {
		return p.notUntil
	}
	return time.Time{}
}

// lines are those of the reading that runs; nil where none does.
func (p *past) lines() <-chan []byte {
	if p.command == nil {
		return nil
	}
	return p.command.lines
}

// start begins a reading where one is due.
func (p *past) start(ctx context.Context, now time.Time) error {
	if !p.isWanted || p.command != nil || now.Before(p.notUntil) {
		return nil
	}
	arguments := []string{"show", "--info"}
	if p.wanted.IsZero() {
		arguments = append(arguments, "--last", "boot")
	} else {
		arguments = append(arguments, "--start", p.wanted.Add(-margin).UTC().Format("2006-01-02 15:04:05-0700"))
	}
	ctx, cancel := context.WithTimeout(ctx, p.options.ShowTime)
	command, err := startLog(ctx, p.options.Programs.Log, p.skipped, arguments...)
	if err != nil {
		cancel()
		return err
	}
	stop := command.cancel
	command.cancel = func() { stop(); cancel() }
	p.timedOut = func() bool { return errors.Is(ctx.Err(), context.DeadlineExceeded) }
	p.command, p.join, p.from, p.reached, p.began = command, newJoiner(), p.wanted, time.Time{}, now
	p.isWanted, p.wanted = false, time.Time{}
	p.tries++
	return nil
}

// end takes note that the reading's output has ended, and returns what was wrong
// with it. Then it is wanted again, unless that was tried often enough: isOver
// says that it is not, or that there was nothing wrong.
func (p *past) end(now time.Time) (isOver bool, err error) {
	hasTimedOut := p.timedOut()
	err = p.command.wait()
	p.command = nil
	if hasTimedOut {
		err = fmt.Errorf("log show did not end within %v", p.options.ShowTime)
	}
	p.notUntil = now.Add(p.every)
	p.every = min(2*p.every, showMost)
	if err != nil && p.tries < showTries {
		p.want(p.rest(), now)
		return false, err
	}
	p.tries = 0
	return true, err
}

// stop ends the reading that runs.
func (p *past) stop() {
	if p.command != nil {
		p.command.stop()
		p.command = nil
	}
}

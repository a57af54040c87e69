package ulog

import (
	"context"
	"time"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/darwin/host"
	"github.com/kmodquery/kmodquery/internal/source"
)

const (
	// headerPatience is how long log stream is waited for to say that it filters:
	// from then on it shows what is logged.
	headerPatience = 10 * time.Second
	// lookBackPatience is how long Run waits for the past before it is ready.
	lookBackPatience = 2 * time.Minute
	// showTime bounds a log show. One over a whole boot reads gigabytes.
	showTime = 5 * time.Minute
	// showTries is how often a part of the past is asked for before it counts
	// as lost, and showEvery how far the first two tries lie apart; each next
	// one waits twice as long, up to showMost. So does a stream that drops
	// messages all the time not keep log show busy all the time.
	showTries = 3
	showEvery = 10 * time.Second
	showMost  = 5 * time.Minute
	// margin is how much before what is missing log show begins, so that what
	// belongs to an attempt is known: --start has seconds, and messages come late.
	margin = 30 * time.Second
	// reach is how far a position may lie back. The log does not keep more.
	reach = 30 * 24 * time.Hour
	// syncGrace is how long a Sync waits for messages on their way: logd hands them
	// out within a moment.
	syncGrace = 200 * time.Millisecond
	// syncMost is how long a Sync waits at most, however many messages come.
	syncMost = 2 * time.Second
)

// Source is the source that has log(1) show what the kernel, kernelmanagerd,
// syspolicyd and their like write of kernel extensions. It needs root. Extensions
// of the boot collection are loaded without a word.
type Source struct {
	health  *source.Health
	options Options
	// How long Run waits for the stream to say that it began, and for the past.
	headerPatience, lookBackPatience time.Duration

	since time.Time
}

// Options say how to read the log, and how far it was read.
type Options struct {
	// Programs are DefaultPrograms when empty.
	Programs host.Programs
	// Position returns the position of the last event that was stored, or "".
	Position func(ctx context.Context) (string, error)
	// ShowTime bounds one reading of the past; 5 minutes when 0.
	ShowTime time.Duration
	// RetryTime is how long after a reading of the past the next one is begun at
	// the earliest; 10 seconds when 0.
	RetryTime time.Duration
}

// New returns a source that reads nothing until Run.
func New(o Options) *Source {
	if o.Programs == (host.Programs{}) {
		o.Programs = host.DefaultPrograms()
	}
	if o.ShowTime == 0 {
		o.ShowTime = showTime
	}
	if o.RetryTime == 0 {
		o.RetryTime = showEvery
	}
	return &Source{
		health: source.New(kmodquery.SourceUnifiedLog), options: o,
		headerPatience: headerPatience, lookBackPatience: lookBackPatience,
	}
}

// Name is the source's name in the tables.
func (s *Source) Name() string { return s.health.Name() }

// Sync returns when what the log handed out before the call, and a moment after
// it, was given to emit; at once when the source is not running.
func (s *Source) Sync(ctx context.Context) error { return s.health.Sync(ctx) }

// Sensor is the source's own account of itself.
func (s *Source) Sensor() kmodquery.Sensor { return s.health.Sensor() }

// Backfill bounds how far back the next Run looks: another source saw what
// happened before since. The zero time is no bound but the boot, or the position.
// It must not be called while Run does its work.
func (s *Source) Backfill(since time.Time) { s.since = since }

// Run emits what the log says of kernel extensions until ctx ends, beginning with
// what it says since the position that was stored, or since the boot. It calls
// ready once, when it has read that, or has waited for it for long. What was
// refused again and again is one row a minute, or a Sync.
func (s *Source) Run(ctx context.Context, ready func(), emit func(kmodquery.Event)) (err error) {
	defer func() { s.health.Stopped(err) }()
	stored, err := s.health.Resume(ctx, s.options.Position)
	if err != nil {
		return err
	}
	stream, err := startLog(ctx, s.options.Programs.Log, func() { s.health.DecodeErrors.Add(1) }, "stream", "--level", "info")
	if err != nil {
		return err
	}
	r := newReader(s, stream, parsePosition(stored), emit)
	err = r.run(ctx, ready)
	stream.stop()
	r.past.stop()
	r.flush(time.Now())
	return err
}

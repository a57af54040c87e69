package ulog

import (
	"context"
	"time"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/darwin/host"
	"github.com/kmodquery/kmodquery/internal/source"
)

const (
	// showTries is how often a part of the log is read before it counts as lost.
	// showPause is the pause between the first two tries. Each further pause is
	// twice as long, up to maxShowPause, so that a stream that keeps dropping
	// messages does not keep log show running all the time.
	showTries    = 3
	showPause    = 10 * time.Second
	maxShowPause = 5 * time.Minute
	// margin is how far before a missing part log show begins, so that the earlier
	// messages of an attempt are known: --start has a resolution of a second, and
	// messages arrive late.
	margin = 30 * time.Second
	// bootTime is how long after the boot kernelmanagerd reports the extensions that the
	// kernel loaded before it ran.
	bootTime = 5 * time.Minute
	// reach is the maximum age of a position. The log keeps messages for less time.
	reach = 30 * 24 * time.Hour
	// syncLimit bounds a Sync while messages keep coming.
	syncLimit = 2 * time.Second
)

// timeouts are the times for which a Source waits.
type timeouts struct {
	header   time.Duration // for the header of log stream, after which it prints new messages
	backfill time.Duration // for the first backfill, until Run calls ready
	show     time.Duration // for one log show; over a whole boot it reads gigabytes
	retry    time.Duration // first pause between two runs of log show
	grace    time.Duration // after the beginning of a Sync, for messages on their way: logd passes them on within a moment
}

// Source reports what the kernel, kernelmanagerd, syspolicyd and similar programs
// log about kernel extensions, as log(1) prints it. It needs root.
type Source struct {
	health   *source.Health
	options  Options
	timeouts timeouts
	since    time.Time
	// withTimeout is context.WithTimeout. Tests replace it.
	withTimeout func(context.Context, time.Duration) (context.Context, context.CancelFunc)
}

// Options configures a Source.
type Options struct {
	Programs host.Programs // Log is used
	// Position returns the position of the last stored event, or "". It may be nil.
	Position func(ctx context.Context) (string, error)
	// Boot returns the current boot.
	Boot func() host.Boot
	// Kexts describes extensions that were loaded.
	Kexts interface {
		Collection(ctx context.Context, name string) string
		AuthenticatedRoot(ctx context.Context) *int64
	}
}

// New returns a source. It starts log in Run.
func New(o Options) *Source {
	return &Source{
		health: source.New(kmodquery.SourceUnifiedLog), options: o, withTimeout: context.WithTimeout,
		timeouts: timeouts{
			header:   10 * time.Second,
			backfill: 2 * time.Minute,
			show:     5 * time.Minute,
			retry:    showPause,
			grace:    200 * time.Millisecond,
		},
	}
}

// Name returns the source's name in the tables.
func (s *Source) Name() string { return s.health.Name() }

// Sync returns when everything that log printed before the call, and 200 ms after
// it, was emitted, and after two seconds at the latest. It returns at once if the
// source does not run.
func (s *Source) Sync(ctx context.Context) error { return s.health.Sync(ctx) }

// Sensor returns the source's state and counters.
func (s *Source) Sensor() kmodquery.Sensor { return s.health.Sensor() }

// LastRound returns when the event loop of Run last completed a round, or the zero time
// while it does not run.
func (s *Source) LastRound() time.Time { return s.health.LastRound() }

// Backfill limits the backfill of the next Run to messages after since, up to which
// another source has reported everything. The zero time removes the limit. It must
// not be called during Run.
func (s *Source) Backfill(since, _ time.Time) { s.since = since }

// Run emits the events of the log until ctx ends. It begins with the messages since
// the stored position, or since the boot. It calls ready once, after it has read
// these or after two minutes. Repeated refusals are folded: Run emits them once a
// minute and with each Sync.
func (s *Source) Run(ctx context.Context, ready func(), emit func(kmodquery.Delivery)) (err error) {
	defer func() { s.health.Stopped(err) }()
	stored, err := s.health.Resume(ctx, s.options.Position)
	if err != nil {
		return err
	}
	streaming, cancel := context.WithCancel(ctx)
	stream, err := s.startLog(streaming, cancel, "stream", "--level", "info")
	if err != nil {
		return err
	}
	r := newReader(s, stream, parsePosition(stored), emit)
	err = r.run(ctx, ready)
	stream.stop()
	r.backfill.stop()
	r.flush(time.Now())
	return err
}

package collectors

import (
	"context"
	"time"

	"github.com/kmodquery/kmodquery"
)

// A Source sees kernel modules being loaded and unloaded.
type Source interface {
	// Name returns the source's name in the tables.
	Name() string
	// Run watches until ctx ends, and then returns nil after it has emitted
	// what it saw. It calls ready when it misses nothing any more, and again if it
	// has missed something since. An error that matches kmodquery.ErrNotSupported is final; after any other
	// error Run is called again. emit may block.
	Run(ctx context.Context, ready func(), emit func(kmodquery.Delivery)) error
	// Sync returns when everything that the source saw before the call was
	// emitted; at once if it is not running.
	Sync(ctx context.Context) error
	// Sensor returns the source's state and counters.
	Sensor() kmodquery.Sensor
	// LastRound returns when the event loop of Run last completed a round, which
	// it does at least every progress.Interval, or the zero time while it does
	// not run. A loop that stops doing so is stalled: its sensor is failed, and
	// others stand in for the source.
	LastRound() time.Time
}

// A Backfiller is a source with a log that can also be read backwards in time.
type Backfiller interface {
	Source
	// Backfill bounds what the next Run emits: another source saw what happened
	// before since and after until. A zero since stands for the start of this boot,
	// and a zero until sets no limit. What the source emitted in an earlier process
	// is not emitted again.
	Backfill(since, until time.Time)
}

// A Reporter is a source that may have errors while it goes on. It reports them as Run
// returns others.
type Reporter interface {
	Source
	ReportTo(report func(error))
}

// An AtLeastOnceSource keeps what it saw until that is acked. Its next Run, in this
// process or the next, emits what was not acked again. It emits no event whose
// Key is in the sink.
type AtLeastOnceSource interface {
	Source
	// Acked takes events, of any source, that are stored or were dropped.
	Acked(deliveries []kmodquery.Delivery)
}

// A LoadCloser is a sink that derives the end of each attempt to load a module from the events
// that it has.
type LoadCloser interface {
	Sink
	// CloseLoads is called now and then. All sources have reported what happened until the time
	// reported, which is zero if that is not known. It returns soon after the end of ctx.
	CloseLoads(ctx context.Context, reported time.Time) error
}

// A Sink stores events.
type Sink interface {
	// Append stores all of the events or none, and returns when they are
	// durable. It sets the fields that only the sink knows.
	Append(ctx context.Context, deliveries []kmodquery.Delivery) error
}

package collectors

import (
	"context"
	"time"

	"github.com/kmodquery/kmodquery"
)

// A Source sees kernel modules come and go.
type Source interface {
	// Name is the source's name in the tables.
	Name() string
	// Run watches until ctx ends, and then returns nil after it has emitted
	// what it had seen. It calls ready once, when nothing can be missed any
	// more. An error that matches kmodquery.ErrNotSupported is final; after
	// any other Run is called again. emit may block.
	Run(ctx context.Context, ready func(), emit func(kmodquery.Event)) error
	// Sync returns when everything that the source saw before the call was
	// emitted; at once when it is not running.
	Sync(ctx context.Context) error
	// Sensor is the source's account of itself.
	Sensor() kmodquery.Sensor
}

// A Historian is a source with a log that it can read from behind.
type Historian interface {
	Source
	// LookBack bounds, before Run, how far that goes: what happened before
	// since was seen by another source. The zero time is no bound but this
	// boot, and whatever the source has already told in an earlier process.
	LookBack(since time.Time)
}

// A Repeater is a source that reads again, in its next Run or in the process that
// comes after this one, what it was not told to be stored. It emits nothing whose
// Receipt is in the sink.
type Repeater interface {
	Source
	// Settled takes what the sink has stored of all sources, and what nobody
	// will store.
	Settled(events []kmodquery.Event)
}

// A Sink keeps events.
type Sink interface {
	// Append keeps all of the events or none, and returns when they are safe.
	// It completes them: what only the sink knows is in them afterwards.
	Append(ctx context.Context, events []kmodquery.Event) error
}

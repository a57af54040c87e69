package collectors

import (
	"context"

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

// A Sink keeps events.
type Sink interface {
	// Append keeps all of the events or none, and returns when they are safe.
	Append(ctx context.Context, events []kmodquery.Event) error
}

package tables

import (
	"context"
	"time"

	"github.com/osquery/osquery-go"

	"github.com/kmodquery/kmodquery"
)

// A Store is where the tables read events. It must be safe for concurrent
// calls.
type Store interface {
	// Events hands the selected events to visit, highest EID first. The event
	// is visit's only until visit returns.
	Events(ctx context.Context, f kmodquery.Filter, visit func(*kmodquery.Event) error) error
	Count(ctx context.Context, f kmodquery.Filter) (int64, error)
	Status(ctx context.Context) (kmodquery.StoreStatus, error)
}

// A Recorder is what brings events into the store. It must be safe for
// concurrent calls.
type Recorder interface {
	// Sync returns once every event that happened before the call is in the
	// store, or with an error when that cannot be said; one that matches
	// kmodquery.ErrNotStored where the store takes none.
	Sync(ctx context.Context) error
	// Sensors returns the state and the counters of each source.
	Sensors(ctx context.Context) []kmodquery.Sensor
}

// An Inventory knows what is loaded now. It must be safe for concurrent calls.
type Inventory interface {
	// Modules is one look at all views of the kernel, joined with what the
	// events say of each module.
	Modules(ctx context.Context) ([]kmodquery.Module, error)
	// File is what lies on disk for a module, which may take a while.
	File(ctx context.Context, m kmodquery.Module) kmodquery.ModuleFile
}

// Defaults of a [Config].
const (
	DefaultReplyBytes  = 48 << 20
	DefaultTimeout     = time.Minute
	DefaultConcurrency = 4
)

// A Config is what the tables work with. Store and Recorder must be set; zero
// bounds are replaced by the defaults. Without an Inventory the table of that
// name says that the platform has none.
type Config struct {
	Store       Store
	Recorder    Recorder
	Inventory   Inventory
	Signatures  []kmodquery.Signature
	Kernel      string        // release of the running kernel, for the sensors
	ReplyBytes  int64         // bound on the cells of one reply
	Timeout     time.Duration // bound on one call
	Concurrency int           // bound on the calls of all tables that run at once
}

// Plugins returns every table. Their order is that of the documentation.
func Plugins(c Config) []osquery.OsqueryPlugin {
	if c.ReplyBytes == 0 {
		c.ReplyBytes = DefaultReplyBytes
	}
	if c.Timeout == 0 {
		c.Timeout = DefaultTimeout
	}
	if c.Concurrency == 0 {
		c.Concurrency = DefaultConcurrency
	}
	bound := newGuard(c.Timeout, c.Concurrency)
	return []osquery.OsqueryPlugin{
		kernelModuleEvents(c).plugin(bound),
		kernelModuleFindings(c).plugin(bound),
		kernelModuleInventory(c).plugin(bound),
		kernelModuleSensors(c).plugin(bound),
	}
}

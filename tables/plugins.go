package tables

import (
	"cmp"
	"context"
	"time"

	"github.com/osquery/osquery-go"

	"github.com/kmodquery/kmodquery"
)

// A Store provides the events. It must be safe for concurrent calls.
type Store interface {
	// Events calls visit with each selected event, highest EID first. The event is
	// valid until visit returns.
	Events(ctx context.Context, f kmodquery.Filter, visit func(*kmodquery.Event) error) error
	// EventsBetween does the same with the events with an EID above after and up to
	// last, lowest EID first.
	EventsBetween(ctx context.Context, after, last int64, f kmodquery.Filter, visit func(*kmodquery.Event) error) error
	Count(ctx context.Context, f kmodquery.Filter) (int64, error)
	// Status returns when ctx ends, also if the store hangs.
	Status(ctx context.Context) (kmodquery.StoreStatus, error)
}

// Cursors keep the positions of named queries. They must be safe for concurrent calls.
type Cursors interface {
	// Cursor returns the cursor of a name, which belongs to one query. It creates the
	// cursor if there is none.
	Cursor(ctx context.Context, name string, q kmodquery.CursorQuery) (kmodquery.Cursor, error)
	// Advance moves a cursor to the event up to which it was examined, after new rows
	// were found. It is called before each reply. It returns false if another call has
	// moved the cursor meanwhile.
	Advance(ctx context.Context, c kmodquery.Cursor, to int64, rows int) (bool, error)
}

// A Recorder writes events to the store. It must be safe for concurrent calls.
type Recorder interface {
	// Sync returns when every event that happened before the call is stored, or with an
	// error if that is not certain. The error matches kmodquery.ErrNotStored if the
	// store accepts no events.
	Sync(ctx context.Context) error
	// Sensors returns the state and the counters of each source.
	Sensors(ctx context.Context) []kmodquery.Sensor
}

// An Inventory lists the loaded modules. It must be safe for concurrent calls.
type Inventory interface {
	// Modules reads all views of the kernel once and joins them with the events of each
	// module's load.
	Modules(ctx context.Context) ([]kmodquery.Module, error)
	// File returns the module's file on disk. It may take a while.
	File(ctx context.Context, m kmodquery.Module) kmodquery.ModuleFile
}

// An Autostart reads the places of the host's configuration that load modules. It must be
// safe for concurrent calls.
type Autostart interface {
	Entries(ctx context.Context) ([]kmodquery.AutostartEntry, error)
	// FileAt returns the module's file at a path. Package returns the package that owns a
	// file of a place, and false if that is unknown. Both may take a while.
	FileAt(ctx context.Context, path string) kmodquery.ModuleFile
	Package(ctx context.Context, path string) (name string, isKnown bool)
}

// Defaults of a [Config].
const (
	DefaultReplyBytes = 48 << 20
	DefaultTimeout    = time.Minute
)

// concurrency bounds the calls that run at once: those of kernel_module_sensors, and those
// of all other tables.
const concurrency = 4

// A Config configures the tables. Store, Cursors and Recorder must be set. The defaults
// replace zero bounds. Without an Inventory the table kernel_module_inventory returns an
// error, and without an Autostart the table kernel_module_autostart.
type Config struct {
	Store   Store
	Cursors Cursors
	// CursorsSync is set if Cursor of Cursors does what Sync of Recorder does, too.
	CursorsSync bool
	Recorder    Recorder
	Inventory   Inventory
	Autostart   Autostart
	Signatures  []kmodquery.Signature
	// Rules returns the rules and the expectations in force. It must be safe for concurrent
	// calls. Nil has none.
	Rules      func() kmodquery.RuleSet
	Kernel     string // release of the running kernel, for the sensors
	ReplyBytes int64  // bound on the cells of one reply
	// Worker returns how many bytes of osquery's worker one reply may cost. It returns 0
	// if osquery has no watchdog; then ReplyBytes is the bound. Nil is 0.
	Worker  func() int64
	Timeout time.Duration // bound on one call
}

// Plugins returns all tables, in the order of the documentation.
func Plugins(c Config) []osquery.OsqueryPlugin {
	c.ReplyBytes = cmp.Or(c.ReplyBytes, DefaultReplyBytes)
	c.Timeout = cmp.Or(c.Timeout, DefaultTimeout)
	bound := newGuard(c.Timeout, concurrency)
	return []osquery.OsqueryPlugin{
		kernelModuleEvents.plugin(c, bound),
		kernelModuleFindings.plugin(c, bound),
		kernelModuleLoads.plugin(c, bound),
		kernelModuleInventory.plugin(c, bound),
		kernelModuleAutostart.plugin(c, bound),
		// Calls that hang in the store do not keep this table from saying so.
		kernelModuleSensors.plugin(c, newGuard(c.Timeout, concurrency)),
	}
}

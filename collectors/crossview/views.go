package crossview

import (
	"context"
	"time"

	"github.com/kmodquery/kmodquery"
)

// Views show which modules are there, whether or not a source reported them.
type Views interface {
	// Listed reads the views that cost little. Modules reads all views. Both
	// name the views that show each module.
	Listed(ctx context.Context) ([]kmodquery.Module, error)
	Modules(ctx context.Context) ([]kmodquery.Module, error)
	// Confirm returns those suspects whose hiding loads and unloads cannot
	// explain.
	Confirm(ctx context.Context, suspects []kmodquery.Module) ([]kmodquery.Module, error)
	// Taint returns the kernel's own taint, a mask of TAINT_ bits.
	Taint(ctx context.Context) (int64, error)
	// Shown returns the names of the views that can be read, and the reason why
	// the others cannot; the reason is empty if there are none.
	Shown() (views []string, reason string)
}

// A CompleteSource is a source that sees every load, so that a load which it did
// not report is evidence against it.
type CompleteSource interface {
	Name() string
	Sensor() kmodquery.Sensor
	// MarkUnreliable tells the source that it missed a load. Run goes on meanwhile.
	MarkUnreliable(reason string)
}

// A Start is when a source began to watch; zero if none watches.
type Start struct {
	At     time.Time
	Uptime *int64 // by the boot clock, which goes on while the machine sleeps; nil if it is unknown
}

// FromViews reports whether the views produced an event. They notice a load or an
// unload some time after it happened.
func FromViews(e *kmodquery.Event) bool {
	return e.Source == kmodquery.SourceProcfs || e.Source == kmodquery.SourceShowloaded
}

// namesIn returns the folder names of modules.
func namesIn(modules []kmodquery.Module) map[string]bool {
	names := map[string]bool{}
	for _, m := range modules {
		names[kmodquery.FolderName(m.Name)] = true
	}
	return names
}

package es

import (
	"cmp"
	"context"
	"time"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/darwin/host"
	"github.com/kmodquery/kmodquery/internal/source"
)

// Source is the source that has eslogger tell of kernel extensions: who
// asked for which, and whether it was allowed. It needs macOS 13, root, and Full
// Disk Access for the responsible process.
//
// It does not see whether a kernel extension that was allowed came to work, nor
// those of the boot collection. What the log holds of both is for another source.
type Source struct {
	health   *source.Health
	options  Options
	patience patience
}

// Options say how to watch.
type Options struct {
	// Eslogger is the program's absolute path.
	Eslogger string
	// Boot asks for the present one.
	Boot func() host.Boot
	// Alive is how long eslogger is there until it is taken to watch: it ends
	// sooner where it cannot. Zero is a second.
	Alive time.Duration
}

// patience is how long this source waits for what.
type patience struct {
	alive time.Duration // until eslogger watches: it says nothing when it does, and ends when it cannot
	quiet time.Duration // after the last byte, until nothing more of before a Sync is expected
	sync  time.Duration // for that to be so at all
	half  time.Duration // for the rest of a line
	drain time.Duration // for the terminal to hang up, after eslogger has ended
	look  time.Duration // between looks at how eslogger is
}

// New returns a source that starts nothing until Run.
func New(o Options) *Source {
	return &Source{
		health:  source.New(kmodquery.SourceEndpointSecurity),
		options: o,
		patience: patience{
			alive: cmp.Or(o.Alive, time.Second),
			quiet: 100 * time.Millisecond,
			sync:  2 * time.Second,
			half:  10 * time.Second,
			drain: time.Second,
			look:  2 * time.Second,
		},
	}
}

// Name is the source's name in the tables.
func (s *Source) Name() string { return s.health.Name() }

// Run emits what eslogger tells until ctx ends or eslogger does, which is an
// error that says what to do. It calls ready when eslogger has told of anything,
// or was there for a second: it gives up sooner where it cannot watch. A kernel
// extension that comes before then may go unseen.
func (s *Source) Run(ctx context.Context, ready func(), emit func(kmodquery.Event)) (err error) {
	defer func() { s.health.Stopped(err) }()
	if ctx.Err() != nil {
		return nil
	}
	program, err := startEslogger(ctx, s.options.Eslogger)
	if err != nil {
		return err
	}
	defer program.close()
	r := newReader(s, program, ready, emit)
	return r.run(ctx)
}

// Sync returns when what eslogger had printed before the call was emitted; at
// once when it is not running. It takes that to be so when nothing more came for
// a tenth of a second, and after two seconds in any case.
func (s *Source) Sync(ctx context.Context) error { return s.health.Sync(ctx) }

// Sensor is the source's own account of itself.
func (s *Source) Sensor() kmodquery.Sensor { return s.health.Sensor() }

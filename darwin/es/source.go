package es

import (
	"cmp"
	"context"
	"time"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/darwin/host"
	"github.com/kmodquery/kmodquery/internal/source"
)

// Source reports requests to load and unload kernel extensions, with the process
// that made each and the verdict, as eslogger(1) prints them. It needs macOS 13,
// root, and Full Disk Access for the responsible process.
//
// It does not see whether an allowed extension was then loaded, nor the extensions
// of the boot collection.
type Source struct {
	health   *source.Health
	options  Options
	timeouts timeouts
}

// Options configures a Source.
type Options struct {
	// Eslogger is the absolute path of the program.
	Eslogger string
	// Resolve returns the path without links to run instead of Eslogger, or an error if the
	// program is not to be trusted. It is called before each start. Nil trusts the path.
	Resolve func(path string) (string, error)
	// Boot returns the current boot.
	Boot func() host.Boot
	// Alive is how long eslogger must run without output before the source is
	// ready. If eslogger cannot watch, it exits sooner. Zero means one second.
	Alive time.Duration
}

// timeouts are the times for which a Source waits.
type timeouts struct {
	alive time.Duration // from the start of eslogger, which prints nothing when it begins to watch, until ready
	quiet time.Duration // after the last output, until a Sync assumes that everything was read
	sync  time.Duration // limit of a Sync
	half  time.Duration // for the rest of a line
	drain time.Duration // for the end of the output after eslogger has exited
	look  time.Duration // between checks of eslogger
}

// New returns a source. It starts eslogger in Run.
func New(o Options) *Source {
	return &Source{
		health:  source.New(kmodquery.SourceEndpointSecurity),
		options: o,
		timeouts: timeouts{
			alive: cmp.Or(o.Alive, time.Second),
			quiet: 100 * time.Millisecond,
			sync:  2 * time.Second,
			half:  10 * time.Second,
			drain: time.Second,
			look:  2 * time.Second,
		},
	}
}

// Name returns the source's name in the tables.
func (s *Source) Name() string { return s.health.Name() }

// Run emits the events that eslogger prints, until ctx or eslogger ends. The end of
// eslogger is an error that says what to do. Run calls ready once, after the first
// event or when eslogger has run for [Options.Alive]. An extension that is loaded
// before may be missed.
func (s *Source) Run(ctx context.Context, ready func(), emit func(kmodquery.Delivery)) (err error) {
	defer func() { s.health.Stopped(err) }()
	if ctx.Err() != nil {
		return nil
	}
	path := s.options.Eslogger
	if s.options.Resolve != nil {
		if path, err = s.options.Resolve(path); err != nil {
			return err
		}
	}
	program, err := startEslogger(ctx, path)
	if err != nil {
		return err
	}
	defer program.close()
	r := reader{source: s, program: program, output: newOutput(program.out), ready: ready, emit: emit}
	return r.run(ctx)
}

// Sync returns when everything that eslogger printed before the call was emitted,
// and at once if the source does not run. It assumes this after a tenth of a
// second without output, and after two seconds at the latest.
func (s *Source) Sync(ctx context.Context) error { return s.health.Sync(ctx) }

// Sensor returns the source's state and counters.
func (s *Source) Sensor() kmodquery.Sensor { return s.health.Sensor() }

// LastRound returns when the event loop of Run last completed a round, or the zero time
// while it does not run.
func (s *Source) LastRound() time.Time { return s.health.LastRound() }

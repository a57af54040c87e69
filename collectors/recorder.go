package collectors

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/kmodquery/kmodquery"
)

// Delays before a source that failed is run again. Each failure doubles it
// until the source has run for longer than the last one.
const (
	firstDelay = time.Second
	lastDelay  = time.Minute
)

// A Recorder runs sources and brings their events to a sink.
type Recorder struct {
	sources []Source
	writer  *writer
	report  func(error)

	cancel  context.CancelFunc
	running sync.WaitGroup // sources
	written chan struct{}  // closed when the writer has ended
}

// NewRecorder returns a recorder that does nothing until Start. It passes what
// goes wrong with a source or the sink to report, one error a time, from any
// goroutine.
func NewRecorder(sink Sink, report func(error), sources ...Source) *Recorder {
	return &Recorder{sources: sources, writer: newWriter(sink, report), report: report}
}

// Start runs the sources in the background, and returns when each of them
// watches or has failed for the first time.
func (r *Recorder) Start(ctx context.Context) {
	ctx, r.cancel = context.WithCancel(ctx)
	r.written = make(chan struct{})
	go func() {
		defer close(r.written)
		r.writer.run()
	}()
	var settled sync.WaitGroup
	for _, source := range r.sources {
		settled.Add(1)
		once := sync.OnceFunc(settled.Done)
		r.running.Go(func() {
			defer once()
			r.supervise(ctx, source, once)
		})
	}
	settled.Wait()
}

// supervise runs one source again and again until ctx ends or the source says
// that this host cannot support it.
func (r *Recorder) supervise(ctx context.Context, source Source, settled func()) {
	reported := ""
	for delay := firstDelay; ; delay = min(2*delay, lastDelay) {
		began := time.Now()
		err := source.Run(ctx, settled, r.writer.add)
		if time.Since(began) > lastDelay {
			delay = firstDelay // it had worked
		}
		settled()
		if ctx.Err() != nil {
			return
		}
		if err != nil && err.Error() != reported {
			reported = err.Error()
			r.report(fmt.Errorf("%s: %w", source.Name(), err))
		}
		if errors.Is(err, kmodquery.ErrNotSupported) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(delay):
		}
	}
}

// Sync returns when every event that happened before the call, as far as the
// sources see it, is in the sink.
func (r *Recorder) Sync(ctx context.Context) error {
	for _, source := range r.sources {
		if err := source.Sync(ctx); err != nil {
			return err
		}
	}
	return r.writer.sync(ctx)
}

// Sensors returns each source's account of itself.
func (r *Recorder) Sensors() []kmodquery.Sensor {
	sensors := make([]kmodquery.Sensor, len(r.sources))
	for i, source := range r.sources {
		sensors[i] = source.Sensor()
	}
	return sensors
}

// Close stops the sources, stores what they had seen, and returns when that is
// done. Only Start may come before it.
func (r *Recorder) Close() error {
	r.cancel()
	r.writer.stop()
	r.running.Wait()
	r.writer.close()
	<-r.written
	return r.writer.unstored()
}

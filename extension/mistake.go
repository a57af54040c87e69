package main

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/collectors"
	"github.com/kmodquery/kmodquery/tables/sqlite"
)

// correctionEvery is how often a process with a mistake in its configuration file reads
// the file again.
const correctionEvery = 2 * time.Second

// awaitCorrection returns true once a new start of this command line would find no mistake in
// the configuration file, and false when ctx ends. Until then the process holds the store's
// lock, which keeps another one with the corrected file from recording.
func awaitCorrection(ctx context.Context, c *config) bool {
	for {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(correctionEvery):
		}
		if again, err := parse(c.platform, c.commandLine); err == nil && again.mistake == nil {
			return true
		}
	}
}

// endWhenCorrected calls stop once the configuration file has no mistake any more. What
// started this process then starts it again, with the same environment.
func endWhenCorrected(ctx context.Context, c *config, report *log.Logger, stop func()) {
	if c.mistake == nil || c.isLasting {
		return
	}
	go func() {
		if awaitCorrection(ctx, c) {
			starter, started := c.restart()
			report.Printf("the configuration file has no mistake any more; ending, so that %s starts this %s again", starter, started)
			stop()
		}
	}()
}

// restart names what starts a process with a mistake again, and what that process is.
func (c *config) restart() (starter, started string) {
	if c.command == "record" {
		return "launchd", "service"
	}
	return "osquery", "extension"
}

// mistakenOptions returns the options of a recorder that records nothing, because the
// environment or the configuration file has a mistake. osquery would restart an extension that ends every few
// seconds, and launchd a service.
func mistakenOptions(c *config, store *sqlite.Store) collectors.Options {
	o := collectors.Options{Stamp: c.platform.stamp, Cursors: store, Loss: store.Loss, SideBySide: true}
	starter, started := c.restart()
	remedy := fmt.Sprintf("%s then starts this %s again", starter, started)
	switch {
	case c.isLasting && c.command == "record":
		remedy = "correct it and load this service again"
	case c.isLasting:
		remedy = "correct it and restart osquery"
	}
	reason := harmless(fmt.Sprintf("%v; %s", c.mistake, remedy))
	for _, name := range wanted(c) {
		o.Sources = append(o.Sources, mistakenSource{name, c.mistake, reason})
	}
	return o
}

// A mistakenSource shows the mistake in the place of a source.
type mistakenSource struct {
	name    string
	mistake error
	reason  string
}

func (s mistakenSource) Name() string { return s.name }

func (s mistakenSource) Run(context.Context, func(), func(kmodquery.Delivery)) error {
	return fmt.Errorf("%w: %w", kmodquery.ErrNotSupported, s.mistake) // nothing but a restart helps
}

func (s mistakenSource) Sync(context.Context) error { return nil }

func (s mistakenSource) Sensor() kmodquery.Sensor {
	return kmodquery.Sensor{Source: s.name, State: kmodquery.StateFailed, Reason: s.reason}
}

func (s mistakenSource) LastRound() time.Time { return time.Time{} }

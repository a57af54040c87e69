package main

import (
	"context"
	"fmt"
	"time"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/collectors"
	"github.com/kmodquery/kmodquery/tables/sqlite"
)

// correctionEvery is how often an extension with a mistake in its configuration file reads
// the file again.
const correctionEvery = 2 * time.Second

// awaitCorrection returns true once the configuration file has no mistake any more, and false
// when ctx ends. Until then the extension holds the store's lock, which keeps a service with
// the corrected file from recording.
func awaitCorrection(ctx context.Context, c *config) bool {
	for {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(correctionEvery):
		}
		flags := (&config{platform: c.platform}).flagSet()
		if parseConfigFile(c.configFile, flags, flags.Set) == nil {
			return true
		}
	}
}

// mistakenOptions returns the options of a recorder that records nothing, because the
// configuration file has a mistake. osquery would restart an extension that ends every few
// seconds.
func mistakenOptions(c *config, store *sqlite.Store) collectors.Options {
	o := collectors.Options{Stamp: c.platform.stamp, Cursors: store, Loss: store.Loss, SideBySide: true}
	for _, name := range wanted(c) {
		o.Sources = append(o.Sources, mistakenSource{name, c.mistake})
	}
	return o
}

// A mistakenSource shows the mistake in the place of a source.
type mistakenSource struct {
	name    string
	mistake error
}

func (s mistakenSource) Name() string { return s.name }

func (s mistakenSource) Run(context.Context, func(), func(kmodquery.Delivery)) error {
	return fmt.Errorf("%w: %w", kmodquery.ErrNotSupported, s.mistake) // nothing but a restart helps
}

func (s mistakenSource) Sync(context.Context) error { return nil }

func (s mistakenSource) Sensor() kmodquery.Sensor {
	return kmodquery.Sensor{Source: s.name, State: kmodquery.StateFailed, Reason: harmless(s.mistake.Error() + "; osquery then starts this extension again")}
}

func (s mistakenSource) LastRound() time.Time { return time.Time{} }

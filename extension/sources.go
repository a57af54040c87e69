package main

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/collectors"
	"github.com/kmodquery/kmodquery/tables/sqlite"
)

// autoSources is the value of --sources that leaves the choice to this program.
const autoSources = "auto"

// parseSources reads --sources: the names of sources, or nil for auto.
func (p *platform) parseSources(text string) ([]string, error) {
	if text == autoSources {
		return nil, nil
	}
	var names []string
	for name := range strings.SplitSeq(text, ",") {
		name = strings.TrimSpace(name)
		if !slices.Contains(p.sourceNames, name) {
			what := fmt.Sprintf("there is no source %q here", name)
			if name == p.viewsSource {
				what = name + " always runs beside the sources"
			}
			return nil, fmt.Errorf("%s; choose %s, or some of %s, separated by commas", what, autoSources, strings.Join(p.sourceNames, ", "))
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	// The user chooses the sources and not their order of preference.
	slices.SortFunc(names, func(a, b string) int {
		return slices.Index(p.sourceNames, a) - slices.Index(p.sourceNames, b)
	})
	return names, nil
}

// wanted returns the names of the sources that c selects. On a kernel without modules it
// returns one of them, which reports that the kernel has none.
func wanted(c *config) []string {
	names := c.sources
	if names == nil {
		names = c.platform.sourceNames
	}
	if !c.platform.hasModules() {
		names = names[:1]
	}
	return names
}

// recorderOptions returns the options of a recorder for a store.
func recorderOptions(c *config, store *sqlite.Store) collectors.Options {
	if c.mistake != nil {
		return mistakenOptions(c, store)
	}
	o := collectors.Options{
		SideBySide:  c.sources != nil || c.platform.sideBySide,
		Backfill:    c.platform.backfill,
		Views:       c.platform.openViews(),
		ViewsSource: c.platform.viewsSource,
		Poll:        c.poll,
		Stamp:       c.platform.stamp,
		Cursors:     store,
		Loss:        store.Loss,
		Backfilled:  store.GapRead,
		Past: func(ctx context.Context, visit func(*kmodquery.Event)) error {
			return c.notifier.during(func() error { return past(ctx, c.platform, store, visit) })
		},
	}
	for _, name := range wanted(c) {
		o.Sources = append(o.Sources, c.platform.openSource(name, c, store))
	}
	return o
}

// pastColumns are the columns that a new recorder needs of the stored events.
var pastColumns = []string{
	"time_nanos", "uptime", "event_name", "source", "load_id", "parent_load_id", "name", "path", "size", "taints", "pid", "result", "error", "first_seen",
	"type", "sha256", "missing", "reports_load",
	"origin", "device", "inode", "ctime", "image_sha256", "signer", "signature_status", // of the loaded bytes, which the inventory compares with files
}

// recentPast is how many of the newest events a recorder reads to find attempts that
// another source may report again.
const recentPast = 1 << 16

// past visits the stored loads and unloads of this boot that a recorder needs, and all
// events of the cross-view check.
func past(ctx context.Context, p *platform, store *sqlite.Store, visit func(*kmodquery.Event)) error {
	boot := p.stamp().BootID
	if boot == "" {
		return nil // the events of this boot cannot be distinguished from others
	}
	if err := store.Replay(ctx, boot, []string{
		kmodquery.EventSecurityKernelReadFile, kmodquery.EventModuleLoad, kmodquery.EventModuleFree, kmodquery.EventInitModule, kmodquery.EventFinitModule, kmodquery.EventDeleteModule,
		kmodquery.EventKextload, kmodquery.EventKextunload, kmodquery.EventKextAllowed, kmodquery.EventKextBlocked,
	}, pastColumns, recentPast, visit); err != nil {
		return err
	}
	return store.Replay(ctx, boot, []string{
		kmodquery.EventModulePresent, kmodquery.EventModuleHidden, kmodquery.EventModuleUnwitnessed, kmodquery.EventTaintReset,
	}, pastColumns, math.MaxInt64, visit)
}

// sensorNames returns the sources that have a row in the sensors table.
func sensorNames(c *config) []string {
	names := slices.Clone(wanted(c))
	if c.platform.openViews() != nil {
		names = append(names, c.platform.viewsSource)
	}
	return names
}

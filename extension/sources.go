package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/collectors"
	"github.com/kmodquery/kmodquery/tables/sqlite"
)

// autoSources is the --sources that leaves the choice to this program.
const autoSources = "auto"

// parseSources reads --sources: the names of sources, or nil for auto.
func parseSources(text string) ([]string, error) {
	if text == autoSources {
		return nil, nil
	}
	var names []string
	for name := range strings.SplitSeq(text, ",") {
		name = strings.TrimSpace(name)
		if !slices.Contains(sourceNames, name) {
			return nil, fmt.Errorf("there is no source %q here; choose %s, or some of %s, separated by commas",
				name, autoSources, strings.Join(sourceNames, ", "))
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	// Their order is that of preference, whatever the user's.
	slices.SortFunc(names, func(a, b string) int {
		return slices.Index(sourceNames, a) - slices.Index(sourceNames, b)
	})
	return names, nil
}

// wanted are the names of the sources that c asks for. On a kernel without
// modules one is enough to say so.
func wanted(c *config) []string {
	names := c.sources
	if names == nil {
		names = sourceNames
	}
	if !hasModules() {
		names = names[:1]
	}
	return names
}

// recorderOptions say what a process that records into a store watches.
func recorderOptions(c *config, store *sqlite.Store) collectors.Options {
	o := collectors.Options{
		SideBySide: c.sources != nil,
		Recall:     recall,
		Views:      openViews(),
		Poll:       c.poll,
		Stamp:      stamp,
		Past: func(ctx context.Context, visit func(*kmodquery.Event)) error {
			return past(ctx, store, visit)
		},
	}
	for _, name := range wanted(c) {
		o.Sources = append(o.Sources, openSource(name, c, store))
	}
	return o
}

// pastColumns are what a recorder learns from the events of an earlier one.
var pastColumns = []string{
	"time_nanos", "uptime", "event_name", "source", "load_id", "name", "path", "size", "taints", "pid", "result", "error", "first_seen",
	"type", "sha256", "missing",
}

// past hands over the loads and unloads that are stored of this boot.
func past(ctx context.Context, store *sqlite.Store, visit func(*kmodquery.Event)) error {
	boot := stamp().BootID
	if boot == "" {
		return nil // nothing says which are of this boot
	}
	filter := kmodquery.Filter{
		Conditions: []kmodquery.Condition{
			{Column: "boot_id", Op: kmodquery.Equal, Values: []any{boot}},
			{Column: "event_name", Op: kmodquery.Equal, Values: []any{
				kmodquery.EventModuleLoad, kmodquery.EventModuleFree, kmodquery.EventModulePresent, kmodquery.EventModuleHidden,
				kmodquery.EventModuleUnwitnessed, kmodquery.EventTaintReset, kmodquery.EventInitModule, kmodquery.EventFinitModule, kmodquery.EventDeleteModule,
			}},
		},
		Columns: pastColumns,
	}
	return store.Events(ctx, filter, func(e *kmodquery.Event) error {
		visit(e)
		return nil
	})
}

// sensorNames are the sources that the sensors table has rows of.
func sensorNames(c *config) []string {
	names := slices.Clone(wanted(c))
	if openViews() != nil {
		names = append(names, kmodquery.SourceProcfs)
	}
	return names
}

package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	osquery "github.com/osquery/osquery-go"
	gen "github.com/osquery/osquery-go/gen/osquery"

	"github.com/kmodquery/kmodquery/tables"
)

// drainFor bounds the calls in progress when the tables end. osquery kills an extension
// 11 s after it asked it to end.
const drainFor = 5 * time.Second

// The offeredTables are what osquery calls: the tables of the open event store. They
// exist before the store is open, and while this process takes over as the recorder. A
// call waits meanwhile.
type offeredTables struct {
	plugins  []osquery.OsqueryPlugin
	watchdog watchdog
	ending   <-chan struct{}

	mu         sync.Mutex
	app        *app          // nil while no store is open
	opened     chan struct{} // closed when app is set
	registered bool          // osquery has registered the tables, and the cursors were not told
}

// newOfferedTables returns tables without a store. Calls fail once ctx has ended.
func newOfferedTables(ctx context.Context, c *config) *offeredTables {
	o := &offeredTables{ending: ctx.Done(), opened: make(chan struct{})}
	for i, plugin := range tables.Plugins(tables.Config{}) {
		o.plugins = append(o.plugins, &offeredTable{OsqueryPlugin: plugin, tables: o, index: i, timeout: c.queryTimeout})
	}
	return o
}

// accepted tells the cursors that osquery has registered the tables. It is called before
// osquery can call them.
func (o *offeredTables) accepted() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.app == nil {
		o.registered = true
		return
	}
	o.app.cursors.registered()
}

// use answers calls with the tables of an app until the returned function is called, which
// waits for the calls in progress.
func (o *offeredTables) use(a *app) (end func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.registered {
		a.cursors.registered()
		o.registered = false
	}
	a.watchdog = &o.watchdog
	o.app = a
	close(o.opened)
	return func() {
		o.mu.Lock()
		o.app, o.opened = nil, make(chan struct{})
		o.mu.Unlock()
		drained := make(chan struct{})
		go func() {
			defer close(drained)
			a.calls.Wait()
		}()
		select {
		case <-drained:
		case <-time.After(drainFor):
		}
	}
}

var (
	errNotOpen = errors.New("the event store is not open yet; ask again, and see the output of kmodquery if it stays so")
	errEnding  = errors.New("kmodquery is ending")
)

// acquire waits for an app. The caller calls a.calls.Done when it no longer uses it.
func (o *offeredTables) acquire(ctx context.Context) (a *app, err error) {
	for {
		o.mu.Lock()
		a, opened := o.app, o.opened
		if a != nil {
			a.calls.Add(1)
		}
		o.mu.Unlock()
		if a != nil {
			return a, nil
		}
		select {
		case <-opened:
		case <-o.ending:
			return nil, errEnding
		case <-ctx.Done():
			return nil, errNotOpen
		}
	}
}

// An offeredTable is one of the tables.
type offeredTable struct {
	osquery.OsqueryPlugin // has the table's name and columns
	tables                *offeredTables
	index                 int // in the app's plugins
	timeout               time.Duration
}

// Call calls the table of the app, and waits for it within the time of the call.
func (t *offeredTable) Call(ctx context.Context, request gen.ExtensionPluginRequest) gen.ExtensionResponse {
	if request["action"] != "generate" {
		return t.OsqueryPlugin.Call(ctx, request)
	}
	ctx, cancel := tables.WithTimeout(ctx, t.timeout)
	defer cancel()
	a, err := t.tables.acquire(ctx)
	if err != nil {
		message := fmt.Sprintf("error generating table: %v", err)
		return gen.ExtensionResponse{Status: &gen.ExtensionStatus{Code: 1, Message: message}}
	}
	defer a.calls.Done()
	return a.plugins[t.index].Call(ctx, request)
}

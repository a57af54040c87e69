package main

import (
	"context"
	"strconv"
	"sync/atomic"

	gen "github.com/osquery/osquery-go/gen/osquery"
)

// A watchdog is what is known of osquery's watchdog, which kills its worker when that has
// allocated too much.
type watchdog struct{ worker atomic.Int64 }

// workerBytes returns the memory that one reply may cost osquery's worker, in bytes; 0 if
// osquery has no watchdog, or for nil.
func (w *watchdog) workerBytes() int64 {
	if w == nil {
		return 0
	}
	return w.worker.Load()
}

// read reads osquery's flags. If osquery does not answer, it assumes the default watchdog.
func (w *watchdog) read(ctx context.Context, client *client) {
	flags, err := client.Options(ctx)
	if err != nil {
		flags = nil
	}
	w.worker.Store(workerBytes(flags))
}

// The watchdog's memory limit in MB, by --watchdog_level; -1 has practically none
// (kWatchdogLimits of osquery/core/watcher.cpp).
var memoryLimits = map[string]int64{"0": 200, "1": 100}

// workerBytes returns three tenths of the watchdog's limit on memory. A scheduled query
// costs its worker as much again for its former result, and other queries need memory too.
func workerBytes(flags gen.InternalOptionList) int64 {
	value := func(name, otherwise string) string {
		if flag := flags[name]; flag != nil {
			return flag.Value
		}
		return otherwise
	}
	if value("disable_watchdog", "false") == "true" {
		return 0
	}
	limit, err := strconv.ParseInt(value("watchdog_memory_limit", "0"), 10, 64)
	if err != nil || limit <= 0 {
		limit = memoryLimits[value("watchdog_level", "0")]
	}
	return limit << 20 * 3 / 10
}

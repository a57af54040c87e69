//go:build linux

package ebpf

import (
	"slices"
	"time"

	"github.com/kmodquery/kmodquery"
)

// A requester is the requested_by column: the process that made the kernel start a
// loader by requesting a module.
type requester struct {
	Pid         *int64 `json:"pid"`
	Path        string `json:"path"`
	Comm        string `json:"comm"`
	Cmdline     string `json:"cmdline,omitempty"`
	UID         *int64 `json:"uid"`
	ContainerID string `json:"container_id,omitempty"`
	Request     string `json:"request"` // requested name, often an alias
}

// maxRequests bounds the requests that are kept, and the loads whose init may have started
// a program. The oldest is dropped first.
const maxRequests = 1024

// helperTime is how long after all hooks were attached a program may load a module that
// was requested before.
const helperTime = 2 * time.Second

// A recent is a map that keeps the last keys that were added. The zero value is ready
// to use.
type recent[K comparable, V any] struct {
	byKey map[K]V
	order []K
}

// add sets a value. It drops the oldest key if there are more than limit.
func (r *recent[K, V]) add(key K, value V, limit int) {
	if r.byKey == nil {
		r.byKey = map[K]V{}
	}
	if _, ok := r.byKey[key]; !ok {
		r.order = append(r.order, key)
	}
	if len(r.order) > limit {
		delete(r.byKey, r.order[0])
		r.order = r.order[1:]
	}
	r.byKey[key] = value
}

// A loadRequest is the requested_by column of the loads that it causes.
type loadRequest struct {
	column    string
	isPartial bool // something of it is unknown
}

// requestOf returns the request of an event.
func requestOf(e *kmodquery.Event) loadRequest {
	columns := []string{"name", "process_path", "cmdline", "container_id"}
	return loadRequest{isPartial: slices.ContainsFunc(columns, e.Missing.Has), column: encode(requester{
		Pid: e.Pid, Path: kmodquery.Escape(e.ProcessPath), Comm: kmodquery.Escape(e.ProcessName),
		Cmdline: kmodquery.Escape(e.Cmdline), UID: e.UID,
		ContainerID: kmodquery.Escape(e.ContainerID), Request: kmodquery.Escape(e.Name),
	})}
}

//go:build linux

package ebpf

import "github.com/kmodquery/kmodquery"

// A requester is the requested_by column: the process for whose request the
// kernel started a loader.
type requester struct {
	Pid         *int64 `json:"pid"`
	Path        string `json:"path"`
	Comm        string `json:"comm"`
	Cmdline     string `json:"cmdline,omitempty"`
	UID         *int64 `json:"uid"`
	ContainerID string `json:"container_id,omitempty"`
	Request     string `json:"request"` // the name that was asked for, often an alias
}

// requests are the last requests for modules, by their load ids, as the
// requested_by of the loads that follow. The zero value is ready.
type requests struct{ memory[string, string] }

// add takes a module_request.
func (r *requests) add(e *kmodquery.Event) {
	r.put(e.LoadID, encode(requester{
		Pid: e.Pid, Path: kmodquery.Escape(e.ProcessPath), Comm: kmodquery.Escape(e.ProcessName),
		Cmdline: kmodquery.Escape(e.Cmdline), UID: e.UID,
		ContainerID: kmodquery.Escape(e.ContainerID), Request: kmodquery.Escape(e.Name),
	}))
}

//go:build linux

package ebpf

import "github.com/kmodquery/kmodquery"

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

// maxRequests bounds the requests that are kept. The oldest is dropped first.
const maxRequests = 1024

// requests keeps the last requests for modules, as the requested_by column of the
// loads that they cause. The zero value is ready to use.
type requests struct {
	byID  map[attemptID]string
	order []attemptID
}

// add keeps the event of a request.
func (r *requests) add(id attemptID, e *kmodquery.Event) {
	if r.byID == nil {
		r.byID = map[attemptID]string{}
	}
	if _, ok := r.byID[id]; !ok {
		r.order = append(r.order, id)
	}
	if len(r.order) > maxRequests {
		delete(r.byID, r.order[0])
		r.order = r.order[1:]
	}
	r.byID[id] = encode(requester{
		Pid: e.Pid, Path: kmodquery.Escape(e.ProcessPath), Comm: kmodquery.Escape(e.ProcessName),
		Cmdline: kmodquery.Escape(e.Cmdline), UID: e.UID,
		ContainerID: kmodquery.Escape(e.ContainerID), Request: kmodquery.Escape(e.Name),
	})
}

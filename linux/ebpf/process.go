//go:build linux

package ebpf

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/bpf"
)

// A process is what the kernel told of the process behind a record, while it
// was still there.
type process struct {
	executable       *bpf.Path // nil where its record was lost
	args             *bpf.Args
	cwd              *bpf.Path
	cgroup, cgroupV1 *bpf.Path
	ancestors        []bpf.Path // nearest first
	complete         bool       // the last ancestor is there

	file *bpf.File // that it has the kernel read
}

// An ancestor is one element of the ancestors column.
type ancestor struct {
	Pid  uint32 `json:"pid"`
	Path string `json:"path"` // empty for a thread of the kernel's own
	Comm string `json:"comm"`
	UID  uint32 `json:"uid"`
}

// add takes one of the records that tell of the process. They come in order.
func (p *process) add(r bpf.Record) {
	switch {
	case r.Kind == bpf.ProcessArgs:
		p.args = r.Args
	case r.Path.Role == bpf.Cwd:
		p.cwd = r.Path
	case r.Path.Role == bpf.Cgroup:
		p.cgroup = r.Path
	case r.Path.Role == bpf.CgroupV1:
		p.cgroupV1 = r.Path
	case r.Path.Role == bpf.Executable:
		if r.Path.Generation == 0 {
			// A set of programs that goes on with another's call sends all again.
			p.executable, p.ancestors = r.Path, nil
		} else {
			p.ancestors = append(p.ancestors, *r.Path)
		}
		p.complete = p.complete || r.Path.Last
	}
}

// describe gives an event what is known of its process.
func (p *process) describe(e *kmodquery.Event, isKernelThread bool) {
	e.ProcessPath = pathOf(e, "process_path", p.executable)
	e.Cwd = pathOf(e, "cwd", p.cwd)
	if !isKernelThread {
		e.Cmdline = cmdline(e, p.args)
	}
	p.describeCgroup(e)
	e.Ancestors = p.ancestry(e)
}

func pathOf(e *kmodquery.Event, column string, p *bpf.Path) string {
	if p == nil {
		e.Missing.Add(column)
		return ""
	}
	if p.Incomplete {
		e.Missing.Add(column)
	}
	return p.Value
}

// cmdline joins arguments with blanks.
func cmdline(e *kmodquery.Event, args *bpf.Args) string {
	if args == nil || args.Missing {
		e.Missing.Add("cmdline")
		return ""
	}
	value := args.Value
	if args.Truncated {
		e.Missing.Add("cmdline")
	} else {
		value = strings.TrimSuffix(value, "\x00")
	}
	return strings.ReplaceAll(value, "\x00", " ")
}

// describeCgroup prefers the default hierarchy, unless all processes are in its
// root, as on hosts that use the older ones. The container may show in either.
func (p *process) describeCgroup(e *kmodquery.Event) {
	if p.cgroup == nil && p.cgroupV1 == nil {
		e.Missing.Add("cgroup")
	}
	for _, cgroup := range []*bpf.Path{p.cgroup, p.cgroupV1} {
		if cgroup == nil {
			continue
		}
		if e.Cgroup == "" || e.Cgroup == "/" {
			e.Cgroup = cgroup.Value
			if cgroup.Incomplete {
				e.Missing.Add("cgroup")
			}
		}
		if e.ContainerID == "" {
			e.ContainerID = containerID(cgroup.Value)
		}
		if e.ContainerID == "" && cgroup.Incomplete {
			e.Missing.Add("container_id") // it may stand in the beginning
		}
	}
}

// ancestry is the ancestors column.
func (p *process) ancestry(e *kmodquery.Event) string {
	if !p.complete {
		e.Missing.Add("ancestors")
		if len(p.ancestors) == 0 {
			return ""
		}
	}
	chain := make([]ancestor, len(p.ancestors))
	for i, a := range p.ancestors {
		if a.Incomplete || a.Generation != i+1 {
			e.Missing.Add("ancestors")
		}
		chain[i] = ancestor{Pid: a.Pid, Path: kmodquery.Escape(a.Value), Comm: kmodquery.Escape(a.Comm), UID: a.UID}
	}
	text := encode(chain)
	for len(text) > maxAncestry {
		e.Missing.Add("ancestors")
		chain = chain[:len(chain)-1]
		text = encode(chain)
	}
	return text
}

// maxAncestry bounds the ancestors column: paths are what their owners make of
// them, and an escaped byte takes five in JSON.
const maxAncestry = 16 << 10

// encode writes a column that is JSON. Texts of the host's must be escaped: JSON
// has no place for bytes that are no UTF-8, and keeps much that acts on a
// terminal.
func encode(value any) string {
	var b strings.Builder
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return "" // structs of texts and numbers always encode
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// A contextID is what records that tell of a process have in common with those
// that are about it.
type contextID struct {
	context time.Duration
	tid     uint32
}

// processes are those that records have told of and that are still of use. The
// zero value is ready.
type processes struct{ memory[contextID, *process] }

// add takes a record that tells of a process.
func (p *processes) add(r bpf.Record) { p.known(r).add(r) }

// read notes the file that a record says the kernel reads.
func (p *processes) read(r bpf.Record) { p.known(r).file = r.File }

// known is the process that a record belongs to, from its first record on.
func (p *processes) known(r bpf.Record) *process {
	id := contextID{r.Context, r.Tid}
	known, ok := p.get(id)
	if !ok {
		known = &process{}
		p.put(id, known)
	}
	return known
}

// of returns the process that a record is about, or nil where no record told of
// it. A process is forgotten with the last record that can be about it.
func (p *processes) of(r bpf.Record) *process {
	id := contextID{r.Context, r.Tid}
	known, _ := p.get(id)
	switch {
	case r.Kind == bpf.SystemCall, r.Kind == bpf.ModuleRequest, r.Attempt == 0:
		p.forget(id)
	}
	return known
}

//go:build linux

package ebpf

import (
	"encoding/json"
	"strings"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/bpf"
)

// A process is what the programs recorded of an attempt's process while it ran. A
// field is nil if its record was lost.
type process struct {
	executable       *bpf.Path
	args             *bpf.Args
	cwd              *bpf.Path
	cgroup, cgroupV1 *bpf.Path
	ancestors        []bpf.Path // nearest first
	complete         bool       // ancestors has the last one
}

// An ancestor is one element of the ancestors column.
type ancestor struct {
	Pid  uint32 `json:"pid"`
	Path string `json:"path"` // empty for a kernel thread
	Comm string `json:"comm"`
	UID  uint32 `json:"uid"`
}

// add adds the next record of the process.
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

// isHelper reports whether the kernel started the process or an ancestor: kernel threads
// are the last ancestors.
func (p *process) isHelper() bool {
	n := len(p.ancestors)
	return n > 0 && p.ancestors[n-1].KernelThread && p.executable != nil && !p.executable.KernelThread
}

// describe sets an event's columns about its process.
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
	if p == nil || p.Incomplete {
		e.Missing.Add(column)
	}
	if p == nil {
		return ""
	}
	return p.Value
}

// cmdline returns the cmdline column: the arguments, joined with spaces.
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

// describeCgroup sets cgroup and container_id. It prefers the path in the default
// hierarchy, unless that is the root: on hosts that use the version 1 hierarchies,
// every process is there. Either path may name the container.
func (p *process) describeCgroup(e *kmodquery.Event) {
	isLost := p.cgroup == nil || p.cgroup.HasV1 && p.cgroupV1 == nil
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
		isLost = isLost || cgroup.Incomplete
	}
	if p.cgroup == nil || isLost && e.Cgroup == "/" {
		e.Missing.Add("cgroup")
	}
	if isLost && e.ContainerID == "" {
		e.Missing.Add("container_id") // what is missing may name it
	}
}

// ancestry returns the ancestors column.
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
	for ; len(text) > maxAncestry; text = encode(chain) {
		e.Missing.Add("ancestors")
		chain = chain[:len(chain)-1]
	}
	return text
}

// maxAncestry bounds the ancestors column in bytes: users choose their paths, and an
// escaped byte takes five in JSON.
const maxAncestry = 16 << 10

// encode returns a JSON column. Strings from the host must be escaped before: JSON
// cannot hold bytes that are not UTF-8, and keeps characters that control a
// terminal.
func encode(value any) string {
	var b strings.Builder
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(value) // structs of strings and numbers always encode
	return strings.TrimSuffix(b.String(), "\n")
}

//go:build linux

package bpf

import "unsafe"

// Role is the role of a [Path] in its process.
type Role uint32

// The roles of paths.
const (
	Executable = Role(modulePathRoleROLE_EXE)
	Cwd        = Role(modulePathRoleROLE_CWD)
	Cgroup     = Role(modulePathRoleROLE_CGROUP)    // in the default (v2) hierarchy
	CgroupV1   = Role(modulePathRoleROLE_CGROUP_V1) // in that of the pids or memory controller, if that is another one
)

// Path is a path of the process that later records with the same Context are about,
// or of one of its ancestors.
type Path struct {
	Role       Role
	Value      string // absolute, or relative where Incomplete
	Incomplete bool   // it lacks its beginning
	HasV1      bool   // of a Cgroup: the process has a CgroupV1 too

	// The rest is for Executable. Value is empty for a thread of the kernel, and
	// Incomplete for an exiting process.
	Generation   int // 0 for the process itself, 1 for its parent and so on
	Pid, UID     uint32
	Comm         string
	Last         bool // it is process 1 or has no parent
	KernelThread bool
}

func decodeProcessPath(raw []byte) (*Path, error) {
	var room modulePathRecord
	r, err := prefix(&room, raw, int(unsafe.Offsetof(modulePathRecord{}.Path)+unsafe.Offsetof(modulePathRecord{}.Path.Component)))
	if err != nil {
		return nil, err
	}
	p := &Path{Role: Role(r.Role)}
	p.Value, p.Incomplete = path(r.Path.State, r.Path.Components, &r.Path.Component)
	p.HasV1 = p.Role == Cgroup && r.Generation != 0
	if p.Role == Executable {
		p.Generation = int(r.Generation)
		p.Pid, p.UID = r.Pid, r.Uid
		p.Comm = text(r.Comm[:])
		p.Last = r.Last != 0
		p.KernelThread = r.HasExe == 0
		p.Incomplete = p.Incomplete || !p.KernelThread && r.Path.State == modulePathStatePATH_NONE
	}
	return p, nil
}

// Args are the arguments of the process that later records with the same Context are
// about.
type Args struct {
	Value     string // each ends with a NUL
	Truncated bool   // there are more
	Missing   bool   // they could not be read
}

func decodeArgs(raw []byte) (*Args, error) {
	fixed := int(unsafe.Offsetof(moduleCmdlineRecord{}.Cmdline))
	var room moduleCmdlineRecord
	r, err := prefix(&room, raw, fixed)
	if err != nil {
		return nil, err
	}
	if r.Error != 0 {
		return &Args{Missing: true}, nil
	}
	length := min(int(min(r.Len, uint64(len(r.Cmdline)))), len(raw)-fixed)
	return &Args{Value: string(r.Cmdline[:length]), Truncated: r.Truncated != 0}, nil
}

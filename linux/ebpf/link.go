//go:build linux

package ebpf

import (
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/bpf"
)

// maxFiles bounds the files whose last load is kept. The oldest is dropped first.
const maxFiles = 1024

// A fileKey identifies a module's file: the kernel's own device number, and the inode.
type fileKey struct {
	device uint32
	inode  uint64
}

// A fileLoad is the last load of a file.
type fileLoad struct {
	loadID   string
	returned time.Duration // CLOCK_BOOTTIME; 0 if its return was not read
	result   int64
}

// refusals are the results of a finit_module that the kernel refused before it would
// have read the file.
var refusals = []int64{-int64(unix.EBADF), -int64(unix.EINVAL), -int64(unix.ETXTBSY)}

// link notes what a record of a call says about its module's file. From Linux 6.4 on a
// finit_module waits while another one loads the same file, and returns its result
// without reading the file (idempotent_init_module): link makes the other call its
// parent. If the records of the file were lost, or an earlier process released them, or the
// call began before all hooks were attached, it adds their columns to e.Missing.
func (r *reader) link(a *attempt, record *bpf.Record, e *kmodquery.Event) {
	call := record.Call
	if record.Kind == bpf.SystemCall && call.Name != bpf.DeleteModule && call.Result == 0 && !a.isLive {
		// Its module_load was not seen.
		a.known.Missing.Add("version", "srcversion", "taints")
	}
	switch {
	case record.Kind == bpf.ReadFile:
		a.file = record.File
		r.loads.add(fileKey{a.file.Device, a.file.Inode}, fileLoad{loadID: a.loadID}, maxFiles)
	case record.Kind == bpf.ModuleLoad:
		a.isVerified = record.Module.SigOK != nil
		if !a.hasSource() {
			e.Missing.Add("path", "origin", "filesystem", "device", "inode", "size", "mtime", "ctime")
		}
	case record.Kind != bpf.SystemCall || call.Name == bpf.DeleteModule:
	case a.file != nil:
		id := fileKey{a.file.Device, a.file.Inode}
		if r.loads.byKey[id].loadID == a.loadID {
			r.loads.add(id, fileLoad{a.loadID, record.Boot, call.Result}, maxFiles)
		}
	case a.hasSource():
	case call.Taken || call.Result == 0 && call.Name == bpf.InitModule || a.isLive || r.waited(record, e) || record.Attempt <= r.complete:
		a.isTaken = true
		if call.Name == bpf.FinitModule {
			e.Missing.Add("path", "origin", "filesystem", "size", "mtime", "ctime")
			if e.Inode == nil {
				e.Missing.Add("device", "inode")
			}
		}
	}
}

// waited reports whether a call has returned the result of another one, and makes the
// other call its parent.
func (r *reader) waited(record *bpf.Record, e *kmodquery.Event) bool {
	call := record.Call
	if call.Name != bpf.FinitModule {
		return false
	}
	isRefusal := slices.Contains(refusals, call.Result)
	other, isKnown := r.loads.byKey[fileKey{call.Device, call.Inode}]
	switch {
	case other.returned > record.Attempt && other.result == call.Result, // a refusal may be that of the other call
		isKnown && other.returned == 0 && !isRefusal:
		e.ParentLoadID = other.loadID
	case isRefusal:
		return false
	case record.Attempt != 0: // the call was seen to begin, and read no file
		e.Missing.Add("parent_load_id")
	}
	return true
}

// hasSource reports whether the kernel was seen to take the attempt's module.
func (a *attempt) hasSource() bool { return a.file != nil || a.call != nil || a.isCallEmitted }

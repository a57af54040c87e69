package views

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/kmodquery/kmodquery"
)

// A Status says whether a view can be read.
type Status struct {
	View string // one of kmodquery's View constants
	Path string // what it is read from
	Err  error  // why it cannot be read and what to do, in one line; nil where it can
}

// Status tells of each view that the kernel may have, in the order of a module's
// Views.
func (v *Views) Status() []Status {
	all := []Status{
		{View: kmodquery.ViewModules, Path: v.path(procModules)},
		{View: kmodquery.ViewSysfs, Path: v.path(sysModule)},
		{View: kmodquery.ViewKallsyms, Path: v.path(procKallsyms)},
		{View: kmodquery.ViewFtrace, Path: v.tracingPath()},
		{View: kmodquery.ViewBTF, Path: v.path(sysBTF)},
		{View: kmodquery.ViewVmallocinfo, Path: v.path(procVmalloc)},
	}
	for i := range all {
		all[i].Err = explain(all[i].View, readable(all[i].Path))
		if all[i].View == kmodquery.ViewFtrace && all[i].Err == nil {
			all[i].Err = v.panicsOnWarning()
		}
	}
	if memory := &all[len(all)-1]; memory.Err == nil {
		memory.Err = v.tellsMemory()
	}
	return all
}

// tellsMemory looks whether the memory of modules can be told from other code's,
// once there is a module.
func (v *Views) tellsMemory() error {
	modules, regions, _, err := v.memory(context.Background())
	switch {
	case err != nil || len(modules) == 0:
		return nil
	case len(regions) == 0:
		return &kmodquery.NotSupportedError{Missing: "the memory of modules in /proc/vmallocinfo", Need: "Linux up to 6.12, or 6.17 or later"}
	case newMemory(regions).hasAddresses() || !slices.ContainsFunc(regions, func(r region) bool { return r.shared }):
		return nil
	default:
		return &kmodquery.NotSupportedError{Missing: "addresses in /proc/vmallocinfo", Need: "root, and: sysctl kernel.kptr_restrict=1"}
	}
}

// tracingPath is the file that is read of tracefs, or that would be if it were
// mounted.
func (v *Views) tracingPath() string {
	for _, name := range []string{tracingAddresses, tracingFunctions} {
		for _, folder := range tracingFolders {
			path := filepath.Join(v.path(folder), name)
			if _, err := os.Lstat(path); err == nil {
				return path
			}
		}
	}
	return filepath.Join(v.path(tracingFolders[0]), tracingFunctions)
}

// readable opens a file or folder and reads what comes first.
func readable(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err = file.Read(make([]byte, 1)); errors.Is(err, syscall.EISDIR) {
		_, err = file.Readdirnames(1)
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// needs are what a host lacks where a view's file does not exist.
var needs = map[string]*kmodquery.NotSupportedError{
	kmodquery.ViewModules:     {Missing: "/proc/modules", Need: "a kernel with CONFIG_MODULES, and proc mounted"},
	kmodquery.ViewSysfs:       {Missing: "/sys/module", Need: "sysfs: mount -t sysfs sysfs /sys"},
	kmodquery.ViewKallsyms:    {Missing: "/proc/kallsyms", Need: "a kernel with CONFIG_KALLSYMS"},
	kmodquery.ViewFtrace:      {Missing: "tracefs", Need: "a kernel with CONFIG_DYNAMIC_FTRACE that is not locked down to confidentiality, and: mount -t tracefs tracefs /sys/kernel/tracing"},
	kmodquery.ViewBTF:         {Missing: "/sys/kernel/btf", Need: "a kernel with CONFIG_DEBUG_INFO_BTF"},
	kmodquery.ViewVmallocinfo: {Missing: "/proc/vmallocinfo", Need: "a kernel with CONFIG_MMU, and proc mounted"},
}

// explain makes of an error what to do about it.
func explain(view string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return needs[view]
	case errors.Is(err, fs.ErrPermission) && view == kmodquery.ViewFtrace && os.Geteuid() == 0:
		return &kmodquery.NotSupportedError{Missing: "reading of tracefs", Need: "a kernel that is not locked down to confidentiality"}
	case errors.Is(err, fs.ErrPermission):
		return &kmodquery.NotSupportedError{Missing: "permission to read the view " + view, Need: "root"}
	}
	return err
}

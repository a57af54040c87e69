package views

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/kmodquery/kmodquery"
)

// A Status reports whether a view can be read.
type Status struct {
	View string // one of kmodquery's View constants
	Path string // of the file or folder from which it is read
	Err  error  // why it cannot be read and what to do, in one line; nil if it can
}

// Status returns the status of each view that a kernel may have, in the order of a module's
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
		switch {
		case all[i].Err != nil:
		case all[i].View == kmodquery.ViewFtrace:
			all[i].Err = v.panicsOnWarning()
		case all[i].View == kmodquery.ViewKallsyms:
			all[i].Err = v.checkSymbols()
		}
	}
	if memory := &all[len(all)-1]; memory.Err == nil {
		memory.Err = v.checkMemory()
	}
	return all
}

// checkSymbols returns an error if the last reading of kallsyms had forged lines, or if it
// and the one before had names that nothing proves. One reading has such a name while a
// module is loaded or unloaded.
func (v *Views) checkSymbols() error {
	forged := known(&v.forged)
	if err := forged[1].err; err != nil {
		return fmt.Errorf("read /proc/kallsyms: %w", err)
	}
	if line := forged[1].line; line != "" {
		return fmt.Errorf("/proc/kallsyms has lines that the kernel does not write, such as %q, so no module is reported that only kallsyms and ftrace show: find the module whose symbols have these lines", line)
	}
	for _, name := range forged[1].names {
		if slices.Contains(forged[0].names, name) {
			return fmt.Errorf("/proc/kallsyms names module %q, which /proc/modules lacks and nothing else proves, so it is not reported: another module's symbols forge the name, or /proc/modules is filtered", name)
		}
	}
	return nil
}

// checkMemory returns an error if the memory of modules cannot be distinguished from that
// of other code. It returns nil if no module is loaded.
func (v *Views) checkMemory() error {
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

// tracingPath returns the file of tracefs that is read, or that would be read if tracefs
// were mounted.
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

// readable returns an error if the beginning of a file or folder cannot be read.
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

// needs are the errors for views whose file does not exist.
var needs = map[string]*kmodquery.NotSupportedError{
	kmodquery.ViewModules:     {Missing: "/proc/modules", Need: "a kernel with CONFIG_MODULES, and proc mounted"},
	kmodquery.ViewSysfs:       {Missing: "/sys/module", Need: "sysfs: mount -t sysfs sysfs /sys"},
	kmodquery.ViewKallsyms:    {Missing: "/proc/kallsyms", Need: "a kernel with CONFIG_KALLSYMS"},
	kmodquery.ViewFtrace:      {Missing: "tracefs", Need: "a kernel with CONFIG_DYNAMIC_FTRACE that is not locked down to confidentiality, and: mount -t tracefs tracefs /sys/kernel/tracing"},
	kmodquery.ViewBTF:         {Missing: "/sys/kernel/btf", Need: "a kernel with CONFIG_DEBUG_INFO_BTF"},
	kmodquery.ViewVmallocinfo: {Missing: "/proc/vmallocinfo", Need: "a kernel with CONFIG_MMU, and proc mounted"},
}

// explain returns the error of reading a view, with its remedy if it is known.
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

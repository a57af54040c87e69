//go:build linux

package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/linux/audit"
	"github.com/kmodquery/kmodquery/linux/ebpf"
	"github.com/kmodquery/kmodquery/linux/klog"
	"github.com/kmodquery/kmodquery/linux/views"
)

// Linux returns the checks of the kernel and of what the sources of Linux need. pinDir is the
// folder of the pinned programs, or "".
func Linux(release, pinDir string) []Check {
	const root = Root("/")
	return []Check{
		{"kernel", func(context.Context) []Result { return root.Kernel(release) }},
		{"btf", func(context.Context) []Result { return root.BTF() }},
		{"bpf_rights", func(context.Context) []Result { return root.Rights() }},
		{"lockdown", func(context.Context) []Result { return root.Lockdown() }},
		{"hooks", func(context.Context) []Result { return hooks(ebpf.Inspect()) }},
		{"bpffs", func(context.Context) []Result { return bpffs(pinDir) }},
		{"audit", func(context.Context) []Result { return fallback(audit.Inspect()) }},
		{"journal", func(ctx context.Context) []Result {
			return fallback("journalctl shows messages of the kernel", klog.InspectJournal(ctx))
		}},
		{"kmsg", func(context.Context) []Result { return fallback("/dev/kmsg can be read", klog.InspectKmsg()) }},
		{"syslog", func(context.Context) []Result { return fallback(klog.InspectSyslog()) }},
		{"procfs", func(context.Context) []Result { return shownBy(views.New("/").Status()) }},
	}
}

// hooks turns what eBPF found into results: one for all hooks that can be attached, and one
// for each that cannot.
func hooks(found ebpf.Inspection, err error) (results []Result) {
	var missing *kmodquery.NotSupportedError
	switch {
	case errors.As(err, &missing):
		status := Warning
		if !hasModules() {
			status = Note // it is the kernel's own choice
		}
		return one(status, missing.Missing, "eBPF needs "+missing.Need)
	case errors.Is(err, os.ErrPermission):
		return one(Unknown, "this process may not ask what eBPF can do", "run doctor as root")
	case err != nil:
		return one(Warning, err.Error(), "until then audit or the kernel's log stands in")
	}
	var attachable []string
	for _, hook := range found.Hooks {
		switch {
		case len(hook.Ways) > 0:
			attachable = append(attachable, hook.Name)
		case hook.IsOptional:
			results = append(results, Result{"hook " + hook.Name, Note, "this kernel does not have it, and needs no program there", ""})
		default:
			results = append(results, Result{"hook " + hook.Name, Warning, "this kernel has no place to attach a program to, so some columns or events are missing", "report the kernel's release as a bug"})
		}
	}
	attachable = slices.Compact(slices.Sorted(slices.Values(attachable)))
	all := Result{"", OK, fmt.Sprintf("%d functions and tracepoints can be hooked: %s", len(attachable), strings.Join(attachable, " ")), ""}
	if found.WithoutKprobes {
		all.Status, all.Reason, all.Remedy = Warning, "kprobes are switched off; "+all.Reason, "write 1 to /sys/kernel/debug/kprobes/enabled"
	}
	return append([]Result{all}, results...)
}

// hasModules reports whether this kernel can load modules.
func hasModules() bool {
	_, err := os.Stat("/proc/modules")
	return !errors.Is(err, os.ErrNotExist)
}

// fallback is the result for a source that stands in for eBPF, which is not needed where
// that works.
func fallback(found string, err error) []Result {
	var missing *kmodquery.NotSupportedError
	switch {
	case err == nil:
		return one(OK, found, "")
	case errors.As(err, &missing):
		return one(Note, missing.Missing, "to have it stand in for eBPF it needs "+missing.Need)
	case errors.Is(err, os.ErrPermission):
		return one(Unknown, err.Error(), "run doctor as root")
	}
	return one(Note, err.Error(), "correct it to have it stand in for eBPF")
}

// bpffs checks the folder of the pinned programs.
func bpffs(pinDir string) []Result {
	if pinDir == "" {
		return one(Note, "pin-dir is none, so loads are missed while no recorder runs", "remove the setting pin-dir")
	}
	parent := filepath.Dir(pinDir)
	var mount unix.Statfs_t
	err := unix.Statfs(parent, &mount)
	switch {
	case errors.Is(err, os.ErrPermission):
		return one(Unknown, fmt.Sprintf("look at %s: %v", parent, err), "run doctor as root")
	case err != nil:
		return one(Warning, fmt.Sprintf("there is no %s: %v", parent, err), "choose a pin-dir in /sys/fs/bpf")
	case mount.Type != unix.BPF_FS_MAGIC && parent == "/sys/fs/bpf":
		return one(Note, "no BPF file system is mounted at "+parent+"; a recorder that runs as root mounts it", "")
	case mount.Type != unix.BPF_FS_MAGIC:
		return one(Warning, parent+" is no BPF file system, so the hooks do not stay attached while no recorder runs", "choose a pin-dir in /sys/fs/bpf, or mount one: mount -t bpf bpf "+parent)
	}
	info, err := os.Lstat(pinDir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return one(OK, parent+" is a BPF file system; nothing is pinned in "+pinDir, "")
	case err != nil:
		return unreadable(err, "")
	case !info.IsDir():
		return one(Warning, pinDir+" is no folder", "remove it")
	}
	if owner, _ := ownerOf(info); owner != 0 || info.Mode().Perm()&0o022 != 0 {
		return one(Warning, fmt.Sprintf("%s belongs to user %d and has mode %04o, so others could change it", pinDir, owner, info.Mode().Perm()), "remove it")
	}
	if ebpf.HasPins(pinDir) {
		return one(OK, "programs are pinned in "+pinDir, "")
	}
	return one(OK, "nothing is pinned in "+pinDir, "")
}

// shownBy checks the views of the kernel that the cross-view check compares.
func shownBy(all []views.Status) (results []Result) {
	var readable []string
	for _, view := range all {
		var missing *kmodquery.NotSupportedError
		switch {
		case view.Err == nil:
			readable = append(readable, view.View)
		case view.View == kmodquery.ViewModules:
			if hasModules() {
				results = append(results, Result{"view " + view.View, Critical, view.Err.Error(), "run doctor as root"})
			}
		case errors.As(view.Err, &missing):
			results = append(results, Result{"view " + view.View, Note, "it cannot be read: " + missing.Missing, "it needs " + missing.Need})
		default:
			results = append(results, Result{"view " + view.View, Warning, view.Err.Error(), "find what changes this view"})
		}
	}
	status := OK
	if len(readable) < 2 && hasModules() {
		status = Warning // nothing to compare
	}
	return append([]Result{{"", status, fmt.Sprintf("%d of %d views can be compared: %s", len(readable), len(all), strings.Join(readable, " ")), ""}}, results...)
}

// maxProcesses bounds the processes that are looked at.
const maxProcesses = 1 << 16

// Processes returns the processes that run a program of this name, of those that this process
// may see. A process chooses its name, and root's own processes are asked for only.
func Processes(name string) (found []Process, err error) {
	proc, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer proc.Close()
	entries, err := proc.Readdirnames(maxProcesses)
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry)
		if err != nil {
			continue
		}
		folder := Root("/proc/" + entry)
		comm, err := folder.read("comm")
		if err != nil || strings.TrimSuffix(comm, "\n") != name {
			continue
		}
		// Any user can call a program osqueryd.
		if info, err := os.Stat(string(folder)); err != nil {
			continue
		} else if owner, _ := ownerOf(info); owner != 0 {
			continue
		}
		line, err := folder.read("cmdline")
		if err != nil || line == "" {
			continue
		}
		found = append(found, Process{pid, strings.Split(strings.TrimSuffix(line, "\x00"), "\x00")})
	}
	slices.SortFunc(found, func(a, b Process) int { return a.PID - b.PID })
	return found, nil
}

package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
)

// Kernel checks that the kernel of a release can load modules and is new enough for eBPF.
func (r Root) Kernel(release string) []Result {
	if _, err := os.Stat(r.path("/proc/modules")); errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(r.path("/proc/self")); err != nil {
			return one(Critical, "/proc is not mounted", "mount -t proc proc /proc")
		}
		return one(Note, "this kernel cannot load modules, so there is nothing to record", "")
	} else if err != nil {
		return unreadable(err, "")
	}
	var major, minor int
	if n, _ := fmt.Sscanf(release, "%d.%d", &major, &minor); n < 2 {
		return one(Unknown, fmt.Sprintf("the kernel's release %q has no version", release), "")
	}
	switch {
	case major < 5 || major == 5 && minor < 8:
		return one(Warning, "Linux "+release+" is older than 5.8, so eBPF cannot watch; audit or the kernel's log can", "use Linux 5.8 or later")
	case major == 5 && minor < 10:
		return one(Warning, "Linux "+release+" cannot keep the hooks attached while no recorder runs", "use Linux 5.10 or later")
	}
	if disabled, err := r.read("/proc/sys/kernel/modules_disabled"); err == nil && strings.TrimSpace(disabled) == "1" {
		return one(OK, "Linux "+release+", which loads no module until the next boot (kernel.modules_disabled)", "")
	}
	return one(OK, "Linux "+release, "")
}

// btfMagic begins the kernel's description of its types, in the byte order of the host.
const btfMagic = 0xeb9f

// BTF checks that the kernel describes its types.
func (r Root) BTF() []Result {
	const path = "/sys/kernel/btf/vmlinux"
	file, err := os.Open(r.path(path))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return unreadable(err, "")
	}
	header := make([]byte, 2)
	if err == nil {
		defer file.Close()
		_, err = file.Read(header)
	}
	if err != nil {
		return one(Warning, "there is no "+path+", so eBPF cannot watch", "use a kernel built with CONFIG_DEBUG_INFO_BTF, and mount sysfs")
	}
	if magic := int(header[0])<<8 | int(header[1]); magic != btfMagic && magic != btfMagic>>8|btfMagic&0xff<<8 {
		return one(Warning, path+" is not what the kernel writes", "look for what is mounted there")
	}
	return one(OK, path, "")
}

// Bits of the capabilities that eBPF takes (linux/capability.h).
const (
	capSysAdmin = 21
	capPerfmon  = 38
	capBPF      = 39
)

// Rights checks the capabilities of this process. The recorder may have others: its sensors
// say whether they suffice.
func (r Root) Rights() []Result {
	status, err := r.read("/proc/self/status")
	if err != nil {
		return one(Unknown, err.Error(), "mount /proc")
	}
	var effective uint64
	_, text, found := strings.Cut(status, "\nCapEff:")
	text, _, _ = strings.Cut(text, "\n")
	if effective, err = strconv.ParseUint(strings.TrimSpace(text), 16, 64); !found || err != nil {
		return one(Unknown, "/proc/self/status does not show the capabilities of this process", "")
	}
	has := func(bit int) bool { return effective>>bit&1 == 1 }
	paranoid, _ := r.read("/proc/sys/kernel/perf_event_paranoid")
	level, _ := strconv.Atoi(strings.TrimSpace(paranoid))
	switch {
	case has(capSysAdmin):
		return one(OK, "this process has CAP_SYS_ADMIN, with which it may load and attach eBPF programs", "")
	case !has(capBPF) || !has(capPerfmon):
		return one(Unknown, "this process lacks CAP_BPF and CAP_PERFMON, so it cannot find out what eBPF can do", "run doctor as root")
	case level > 2:
		return one(Warning, fmt.Sprintf("kernel.perf_event_paranoid is %d, with which kprobes need CAP_SYS_ADMIN, and this process lacks it", level), "run as root, or with CAP_SYS_ADMIN")
	}
	return one(OK, "this process has CAP_BPF and CAP_PERFMON", "")
}

// Lockdown checks how far the kernel is locked down.
func (r Root) Lockdown() []Result {
	const path = "/sys/kernel/security/lockdown"
	modes, err := r.read(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return one(OK, "there is no "+path+", so the kernel has no lockdown or securityfs is not mounted", "")
	case err != nil:
		return unreadable(err, "")
	}
	_, mode, _ := strings.Cut(modes, "[")
	mode, _, found := strings.Cut(mode, "]")
	switch {
	case !found:
		return one(Unknown, fmt.Sprintf("%s has %q", path, strings.TrimSpace(modes)), "")
	case mode == "confidentiality":
		return one(Warning, "the kernel is locked down to confidentiality: loads are recorded without parameters, command lines, containers and the hashes of modules from memory", "boot with lockdown=integrity if you need them")
	}
	return one(OK, "lockdown is "+mode, "")
}

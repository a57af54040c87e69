package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
)

// macOS13 is the version of Darwin with which macOS 13 begins, the first with eslogger.
const macOS13 = 22

// MacOS returns the checks of what the sources of macOS need. release is what uname -r
// prints, and eslogger the program that watches.
func MacOS(root Root, release, eslogger string) []Check {
	return []Check{
		{"kernel", func(context.Context) []Result { return macKernel(release) }},
		{"eslogger", func(context.Context) []Result { return root.eslogger(eslogger) }},
		{"full_disk_access", func(context.Context) []Result { return root.fullDiskAccess() }},
		{"unified_log", func(context.Context) []Result { return root.program("/usr/bin/log", Warning) }},
		{"showloaded", func(context.Context) []Result { return root.program("/usr/bin/kmutil", Warning) }},
	}
}

func macKernel(release string) []Result {
	first, _, _ := strings.Cut(release, ".")
	major, err := strconv.Atoi(first)
	switch {
	case err != nil:
		return one(Unknown, fmt.Sprintf("the kernel's release %q has no version", release), "")
	case major < macOS13:
		return one(Warning, "Darwin "+release+" is older than macOS 13, which has eslogger first", "upgrade to see who requests a kernel extension")
	}
	return one(OK, "Darwin "+release, "")
}

func (r Root) program(path string, status Status) []Result {
	info, err := os.Stat(r.path(path))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return one(status, "there is no "+path, "use macOS 13 or later")
	case err != nil:
		return unreadable(err, "")
	case info.Mode()&0o111 == 0:
		return one(status, path+" is not executable", "chmod a+x "+path)
	}
	return one(OK, path, "")
}

func (r Root) eslogger(path string) []Result {
	if os.Geteuid() != 0 {
		if found := r.program(path, Critical); found[0].Status != OK {
			return found
		}
		return one(Unknown, path+" watches for root only", "run doctor as root")
	}
	return r.program(path, Critical)
}

// tccDatabase can be read only by processes with Full Disk Access.
const tccDatabase = "/Library/Application Support/com.apple.TCC/TCC.db"

// fullDiskAccess checks what this process may read. The access belongs to the program that
// is responsible for a process, so the recorder may have another answer.
func (r Root) fullDiskAccess() []Result {
	file, err := os.Open(r.path(tccDatabase))
	switch {
	case err == nil:
		file.Close()
		return one(OK, "the program that is responsible for this process has Full Disk Access; the recorder's may differ, and its sensor endpoint_security says so", "")
	case errors.Is(err, fs.ErrPermission):
		return one(Warning, "the program that is responsible for this process lacks Full Disk Access, without which eslogger does not watch",
			"give it to osqueryd, orbit or kmodquery.ext in System Settings > Privacy & Security, or by a PPPC profile (packaging/macos)")
	}
	return one(Unknown, err.Error(), "")
}

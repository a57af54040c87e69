package signatures

import (
	"regexp"

	"github.com/kmodquery/kmodquery"
)

// moduleTools are the paths of programs that pass a module which they decompressed themselves to
// init_module(2). Other names, such as modprobe, are links to them.
var moduleTools = regexp.MustCompile(`^((/usr)?(/local)?|/nix/store/[^/]+)/s?bin/(kmod|insmod|modprobe|busybox|toybox|udevadm)$` +
	`|^((/usr)?|/nix/store/[^/]+)/lib/systemd/(systemd|systemd-udevd|systemd-modules-load|systemd-executor)$`)

// kmq1003 returns the signature of modules that are in no file.
func kmq1003() kmodquery.Signature {
	return ofLoads(kmodquery.Signature{
		Metadata: metadata("KMQ-1003", "1", "fileless_kernel_module", "Kernel module without a file",
			"A module came from a memfd, from a file that has no name any more, or from the memory of a program that is no tool for "+
				"modules. No file remains that could be examined or scanned.",
			kmodquery.SeverityCritical, kernelModules),
		Facts:          []string{"origin", "path", "process_path", "cmdline", "sha256"},
		Condition:      "origin is memfd or deleted, or origin is memory and process_path is known and is neither kmod, busybox, toybox or udevadm in a folder for programs nor a part of systemd that loads modules.",
		FalsePositives: "A program of an appliance that carries its modules inside itself.",
		Silence:        "signature_id = 'KMQ-1003' AND coalesce(process_path, '') = '/opt/appliance/loader'",
	}, func(e *kmodquery.Event) string {
		switch e.Origin {
		case kmodquery.OriginMemfd, kmodquery.OriginDeleted:
			return "there is no file that could be examined"
		case kmodquery.OriginMemory:
			if e.ProcessPath != "" && !moduleTools.MatchString(e.ProcessPath) {
				return quote(e.ProcessPath) + " is no tool that loads modules"
			}
		}
		return ""
	})
}

package signatures

import (
	"regexp"
	"strings"

	"github.com/kmodquery/kmodquery"
)

// moduleTools are the paths of programs that pass a module which they decompressed themselves to
// init_module(2). Other names, such as modprobe, are links to them.
var moduleTools = regexp.MustCompile(`^((/usr)?(/local)?|/nix/store/[^/]+)/s?bin/(kmod|insmod|modprobe|busybox|toybox|udevadm)$` +
	`|^((/usr)?|/nix/store/[^/]+)/lib/systemd/(systemd|systemd-udevd|systemd-modules-load|systemd-executor)$`)

// kmq1016 returns the signature of modules from the memory of other programs.
func kmq1016() kmodquery.Signature {
	return ofLoads(kmodquery.Signature{
		Metadata: metadata("KMQ-1016", "1", "kernel_module_from_program", "Kernel module from the memory of a program",
			"A program that is no tool for modules passed a module from its memory to the kernel. Droppers do that with a module that they "+
				"carry or download, so that no file of it exists.",
			kmodquery.SeverityModerate, kernelModules),
		Facts: []string{"origin", "process_path", "cmdline", "sha256"},
		Condition: "origin is memory, and process_path is known from the root on and is neither kmod, busybox, toybox or udevadm in a folder for programs " +
			"nor a part of systemd that loads modules.",
		FalsePositives: "Programs that load modules through libkmod from files which they decompress, such as iscsid, ndctl and tcmu-runner, and SystemTap's staprun.",
		Silence:        "signature_id = 'KMQ-1016' AND coalesce(process_path, '') = '/usr/sbin/iscsid' AND coalesce(signature_status, '') = 'valid'",
		Sigma: kmodquery.Sigma{
			Selections: "memory:\n  origin: memory\n  process_path|startswith: /\n" + matching("tool", "process_path", strings.ReplaceAll(moduleTools.String(), "$", `( \(deleted\))?$`)),
			Condition:  "memory and not tool",
		},
	}, func(e *kmodquery.Event) string {
		program := strings.TrimSuffix(e.ProcessPath, " (deleted)") // as audit shows one that was replaced
		if e.Origin != kmodquery.OriginMemory || !strings.HasPrefix(program, "/") || moduleTools.MatchString(program) {
			return ""
		}
		return quote(program) + " is no tool that loads modules"
	})
}

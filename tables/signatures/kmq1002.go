package signatures

import (
	"regexp"
	"strings"

	"github.com/kmodquery/kmodquery"
)

// moduleFolders match the paths of installed modules: the folder of depmod(8), with or without
// the merge of /usr, in an initramfs that mounts the host's own tree, of an OSTree deployment,
// of NixOS, of Android, of a kernel snap, and of kpatch.
var moduleFolders = regexp.MustCompile(`^(/sysroot|/rootfs|/new_root)?(/ostree/deploy/[^/]+/deploy/[^/]+)?(/usr)?/lib/modules/` +
	`|^/nix/store/[^/]+/lib/modules/` +
	`|^/run/(booted|current)-system/kernel-modules/lib/modules/` +
	`|^/(vendor|vendor_dlkm|system|system_dlkm|odm|odm_dlkm)/lib/modules/` +
	`|^(/var/lib/snapd)?/snap/[^/]+/[^/]+/modules/` +
	`|^/(var|usr)/lib/kpatch/`)

// userFolders match paths on macOS where any user, or a disk image, can put an extension.
// Extensions are installed in folders of /Library and /System whose number is not bounded.
var userFolders = regexp.MustCompile(`^(/private)?/(tmp|var/tmp|var/folders)/|^/(Users|Volumes)/`)

// kmq1002 returns the signature of modules that are not where modules are installed.
func kmq1002() kmodquery.Signature {
	return ofLoads(kmodquery.Signature{
		Metadata: metadata("KMQ-1002", "1", "kernel_module_path", "Kernel module from an unusual path",
			"A module was read from a file outside the folders in which package managers and dkms install modules. Malware and "+
				"exploits often load a module from where they were unpacked, such as /tmp.",
			kmodquery.SeverityHigh, kernelModules),
		Facts: []string{"origin", "path", "filesystem", "sha256"},
		Condition: "origin is file, and path is known and not below lib/modules of the host, of its initramfs, of an OSTree deployment, a Nix store, an Android partition, a snap or kpatch; " +
			"on macOS, path is below /tmp, /var/tmp, /var/folders, /Users or /Volumes.",
		FalsePositives: "A developer who loads what was built a moment ago, and installers that test a module before they install it.",
		Silence:        "signature_id = 'KMQ-1002' AND coalesce(path, '') LIKE '/home/builder/%'",
		Sigma: kmodquery.Sigma{
			Selections: "file:\n  origin: file\n  path|startswith: /\n" + matching("usual", "path", moduleFolders.String()) +
				"kext:\n  event_name: kextload\n" + matching("user", "path", userFolders.String()),
			Condition: "file and ((not kext and not usual) or (kext and user))",
		},
	}, func(e *kmodquery.Event) string {
		if e.Origin != kmodquery.OriginFile || !strings.HasPrefix(e.Path, "/") {
			return ""
		}
		isUsual := moduleFolders.MatchString(e.Path)
		if e.EventName == kmodquery.EventKextload {
			isUsual = !userFolders.MatchString(e.Path)
		}
		if isUsual {
			return ""
		}
		return "no modules are installed there"
	})
}

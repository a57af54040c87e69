package signatures

import (
	"slices"
	"strings"

	"github.com/kmodquery/kmodquery"
)

// kmq1014 returns the signature of modules that replace another one of their name.
func kmq1014() kmodquery.Signature {
	return ofLoads(kmodquery.Signature{
		Metadata: metadata("KMQ-1014", "1", "changed_kernel_module", "Kernel module with the name of another",
			"A module was loaded whose name this host knew under the same kernel, with other bytes. A module that an attacker puts in the place of an honest one has its name.",
			kmodquery.SeverityLow, kernelModules),
		Facts:     []string{"changed", "image_sha256", "signer", "path", "cdhash", "team_id"},
		Condition: "changed names hash: no earlier attempt with this name under this kernel release had these bytes.",
		FalsePositives: "An upgrade of a module by dkms, a module of dkms that replaces one of the kernel, a kernel that was built again under its old release, unsigned modules that dracut " +
			"strips for the initramfs, and an upgraded kernel extension. A changed signer and path tell those apart.",
		Silence: "signature_id = 'KMQ-1014' AND coalesce(path, '') LIKE '/usr/lib/modules/%/updates/dkms/%'",
		Sigma: kmodquery.Sigma{
			Selections: matching("selection", "changed", "(^|,)hash(,|$)"),
			Condition:  "selection",
		},
	}, func(e *kmodquery.Event) string {
		changed := strings.Split(e.Changed, ",")
		if !slices.Contains(changed, kmodquery.ChangedHash) {
			return ""
		}
		return "this host knew the name under the same kernel with another " + strings.Join(changed, " and another ")
	})
}

package signatures

import (
	"strings"

	"github.com/kmodquery/kmodquery"
)

// Flags of finit_module(2) that skip the checks of the module's build (include/uapi/linux/module.h).
const (
	ignoreModversions = 1
	ignoreVermagic    = 2
)

// kmq1015 returns the signature of loads that switch a protection off.
func kmq1015() kmodquery.Signature {
	return ofLoads(kmodquery.Signature{
		Metadata: metadata("KMQ-1015", "1", "forced_kernel_module", "Forced kernel module",
			"A module was loaded with flags that make the kernel ignore for which kernel it was built. Modules of the running kernel need no force.",
			kmodquery.SeverityHigh, kernelModules),
		Facts:          []string{"flags", "path", "vermagic", "process_path", "cmdline"},
		Condition:      "flags has MODULE_INIT_IGNORE_MODVERSIONS (1) or MODULE_INIT_IGNORE_VERMAGIC (2), as with modprobe --force of a module that is not compressed.",
		FalsePositives: "Binary modules of a vendor that are installed for several kernels.",
		Silence:        "signature_id = 'KMQ-1015' AND coalesce(sha256, '') = 'HASH'",
		Sigma: kmodquery.Sigma{
			Selections: "selection:\n  flags: [1, 2, 3, 5, 6, 7]\n",
			Condition:  "selection",
		},
	}, func(e *kmodquery.Event) string {
		if e.Flags == nil {
			return ""
		}
		var ignored []string
		if *e.Flags&ignoreVermagic != 0 {
			ignored = append(ignored, "its vermagic")
		}
		if *e.Flags&ignoreModversions != 0 {
			ignored = append(ignored, "the versions of its symbols")
		}
		if len(ignored) == 0 {
			return ""
		}
		return "the kernel was told to ignore " + strings.Join(ignored, " and ")
	})
}

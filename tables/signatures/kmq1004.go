package signatures

import "github.com/kmodquery/kmodquery"

// kmq1004 returns the signature of modules that code in the kernel loads.
func kmq1004() kmodquery.Signature {
	return ofLoads(kmodquery.Signature{
		Metadata: metadata("KMQ-1004", "1", "kernel_module_from_kernel", "Kernel module loaded by code in the kernel",
			"Code inside the kernel called the system call that loads a module with a buffer of its own. A module that carries another "+
				"one does that to stay out of the sight of tools that watch processes.",
			kmodquery.SeverityCritical, rootkit),
		Facts:          []string{"origin", "parent_load_id", "sha256"},
		Condition:      "origin is kernel.",
		FalsePositives: "None are known. The kernel's own requests start modprobe, which is a process.",
		Silence:        "signature_id = 'KMQ-1004' AND coalesce(sha256, '') = 'HASH'",
		Sigma: kmodquery.Sigma{
			Selections: "selection:\n  origin: kernel\n",
			Condition:  "selection",
		},
	}, func(e *kmodquery.Event) string {
		if e.Origin != kmodquery.OriginKernel {
			return ""
		}
		return "the bytes came from code in the kernel"
	})
}

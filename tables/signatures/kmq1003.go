package signatures

import "github.com/kmodquery/kmodquery"

// kmq1003 returns the signature of modules that are in no file.
func kmq1003() kmodquery.Signature {
	return ofLoads(kmodquery.Signature{
		Metadata: metadata("KMQ-1003", "1", "fileless_kernel_module", "Kernel module without a file",
			"A module came from a memfd, or from a file that has no name any more. No file remains that could be examined or scanned.",
			kmodquery.SeverityCritical, kernelModules),
		Facts:          []string{"origin", "path", "process_path", "cmdline", "sha256"},
		Condition:      "origin is memfd or deleted.",
		FalsePositives: "None are known besides tests.",
		Silence:        "signature_id = 'KMQ-1003' AND coalesce(sha256, '') = 'HASH'",
		Sigma: kmodquery.Sigma{
			Selections: "selection:\n  origin: [memfd, deleted]\n",
			Condition:  "selection",
		},
	}, func(e *kmodquery.Event) string {
		if e.Origin == kmodquery.OriginMemfd || e.Origin == kmodquery.OriginDeleted {
			return "there is no file that could be examined"
		}
		return ""
	})
}

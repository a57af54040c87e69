package signatures

import "github.com/kmodquery/kmodquery"

// kmq1007 returns the signature of a kernel taint that lost bits.
func kmq1007() kmodquery.Signature {
	return ofDifferences(kmodquery.Signature{
		Metadata: metadata("KMQ-1007", "1", "kernel_taint_reset", "Kernel taint was reset",
			"The kernel's taint lost bits, or lacks bits that a loaded module sets. The kernel never clears them, so code in the kernel "+
				"erased the trace of a module.",
			kmodquery.SeverityCritical, removal),
		Facts:          []string{"taints"},
		Condition:      "The recorder saw the kernel's taint lose bits (event taint_reset).",
		FalsePositives: "None are known.",
		Silence:        "signature_id = 'KMQ-1007' AND eid = 4711",
	}, func(*kmodquery.Event) string { return "bits of the taint are gone" }, kmodquery.EventTaintReset)
}

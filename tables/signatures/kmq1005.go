package signatures

import "github.com/kmodquery/kmodquery"

// kmq1005 returns the signature of hidden modules.
func kmq1005() kmodquery.Signature {
	return ofDifferences(kmodquery.Signature{
		Metadata: metadata("KMQ-1005", "1", "hidden_kernel_module", "Hidden kernel module",
			"A module is loaded and missing from the kernel's own list. Rootkits remove themselves from it.",
			kmodquery.SeverityCritical, rootkit),
		Facts:          []string{"name", "load_id", "path", "size"},
		Condition:      "The recorder found a module in the events, in sysfs, in kallsyms, in ftrace, in BTF or in memory that /proc/modules lacks (event module_hidden). docs/threat-model.md says what is confirmed first.",
		FalsePositives: "None are known. reason says which views show the module.",
		Silence:        "signature_id = 'KMQ-1005' AND eid = 4711",
	}, func(e *kmodquery.Event) string { return subject(e) + " is hidden" }, kmodquery.EventModuleHidden)
}

package signatures

import "github.com/kmodquery/kmodquery"

// kmq1006 returns the signature of modules whose load no sensor observed.
func kmq1006() kmodquery.Signature {
	return ofDifferences(kmodquery.Signature{
		Metadata: metadata("KMQ-1006", "1", "unwitnessed_kernel_module", "Kernel module whose load no sensor observed",
			"The kernel lists a module whose load a sensor should have observed and did not, or that has another name than the one "+
				"under which it was loaded. Something filtered the sensor's records, detached it, or changed the module.",
			kmodquery.SeverityHigh, rootkit),
		Facts:          []string{"name", "parent_load_id", "path", "size"},
		Condition:      "The recorder found a listed module without a load (event module_unwitnessed).",
		FalsePositives: "A load whose record the kernel dropped because its buffer was full. reason gives the number of lost records.",
		Silence:        "signature_id = 'KMQ-1006' AND coalesce(name, '') = 'NAME'",
	}, kmodquery.EventModuleUnwitnessed, func(e *kmodquery.Event) string { return "no sensor observed the load of " + subject(e) })
}

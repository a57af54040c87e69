package signatures

import "github.com/kmodquery/kmodquery"

// kmq1006 returns the signature of what a sensor should have observed and did not.
func kmq1006() kmodquery.Signature {
	return ofDifferences(kmodquery.Signature{
		Metadata: metadata("KMQ-1006", "1", "blinded_kernel_module_sensor", "Kernel module or sensor out of sight",
			"A module is loaded, and the sensor that sees every load did not observe it, or the module has changed its name since. "+
				"Or somebody detached or disabled the sensor's hooks, or keeps their records from it.",
			kmodquery.SeverityHigh, rootkit),
		Facts:     []string{"name", "parent_load_id", "path", "size", "source"},
		Condition: "The recorder found a listed module without a load (event module_unwitnessed), or its sensor tampered with (event sensor_tampered).",
		FalsePositives: "A load whose record the kernel dropped because its buffer was full: reason gives the number of lost records. " +
			"An administrator who switches tracing off.",
		Silence: "signature_id = 'KMQ-1006' AND eid = 4711",
	}, func(e *kmodquery.Event) string {
		if e.EventName == kmodquery.EventSensorTampered {
			return "the sensor " + quote(e.Source) + " was tampered with"
		}
		return "no sensor observed the load of " + subject(e)
	}, kmodquery.EventModuleUnwitnessed, kmodquery.EventSensorTampered)
}

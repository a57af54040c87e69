package signatures

import (
	"fmt"
	"slices"

	"github.com/kmodquery/kmodquery"
)

// kmq1013 returns the signature of users who try to load modules without the right to.
func kmq1013() kmodquery.Signature {
	events := []string{kmodquery.EventInitModule, kmodquery.EventFinitModule}
	facts := []string{"uid", "process_path", "count", "error", "container_id"}
	return kmodquery.Signature{
		Metadata: metadata("KMQ-1013", "1", "denied_kernel_module", "Kernel module load denied for lack of rights",
			"A user without the right to load modules called the system call. Exploits probe it, and so does a confused administrator.",
			kmodquery.SeverityLow, kernelModules),
		Events:         events,
		Columns:        slices.Concat(kmodquery.UnprivilegedNeeds(), loadColumns, facts),
		Facts:          facts,
		Condition:      "A load was denied with EPERM before the kernel read a byte of a module.",
		FalsePositives: "Root too, where kernel.modules_disabled is 1. Any user can cause it, any number of times; a row stands for the calls of one user, program and minute.",
		Silence:        "signature_id = 'KMQ-1013' AND coalesce(uid, -1) = 1000",
		Sigma: kmodquery.Sigma{
			Selections: "selection:\n  event_name: [init_module, finit_module]\n  unprivileged: 1\n",
			Condition:  "selection",
		},
		Match: func(e *kmodquery.Event) (string, bool) {
			if !slices.Contains(events, e.EventName) || !e.IsUnprivileged() {
				return "", false
			}
			reason := describeLoad(e)
			if e.Count != nil && *e.Count > 1 {
				reason += fmt.Sprintf("; %d times", *e.Count)
			}
			return reason, true
		},
	}
}

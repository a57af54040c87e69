package signatures

import (
	"slices"

	"github.com/kmodquery/kmodquery"
)

// trc1017 returns the signature "Kernel module loading detected".
func trc1017() kmodquery.Signature {
	return kmodquery.Signature{
		Metadata: kmodquery.Metadata{
			ID:        "TRC-1017",
			Version:   "1",
			Name:      "Kernel module loading detected",
			EventName: "kernel_module_loading",
			Description: "Loading of a kernel module was detected. Kernel modules are meant for execution in the " +
				"kernel environment. Adversaries might load such modules to enhance their functionalities and to elude " +
				"detection by operating directly within the kernel, sidestepping user space.",
			Severity:            2,
			Category:            "persistence",
			Technique:           "Kernel Modules and Extensions",
			KubernetesTechnique: "N/A",
			AttackID:            "attack-pattern--a1b52199-c8c5-438a-9ded-656f1d0888c6",
			ExternalID:          "T1547.006",
		},
		Events:         kmodquery.LoadReportEvents(),
		LoadReports:    true,
		Columns:        slices.Concat(kmodquery.LoadReportColumns, loadColumns),
		Condition:      "Every load, also a refused one: the event that stands for it has reports_load = 1.",
		FalsePositives: "Every honest load. An ordinary boot has a page of them.",
		Silence:        "signature_id = 'TRC-1017' AND coalesce(signature_status, '') = 'valid'",
		Sigma:          kmodquery.Sigma{Selections: "selection:\n  reports_load: 1\n", Condition: "selection"},
		Match: func(e *kmodquery.Event) (string, bool) {
			if !e.IsLoadReport() {
				return "", false
			}
			return describeLoad(e), true
		},
	}
}

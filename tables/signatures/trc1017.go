package signatures

import (
	"maps"
	"slices"

	"github.com/kmodquery/kmodquery"
)

// trc1017Events lists, for each source, the first events of a load, so that one load is
// one finding. The eBPF source observes the two hooks that the specification names; the
// other sources report the same fact under another name.
var trc1017Events = map[string][]string{
	kmodquery.SourceEBPF:             {kmodquery.EventInitModule, kmodquery.EventSecurityKernelReadFile},
	kmodquery.SourceAudit:            {kmodquery.EventInitModule, kmodquery.EventFinitModule},
	kmodquery.SourceJournal:          {kmodquery.EventModuleLoad},
	kmodquery.SourceKmsg:             {kmodquery.EventModuleLoad},
	kmodquery.SourceSyslog:           {kmodquery.EventModuleLoad},
	kmodquery.SourceProcfs:           {kmodquery.EventModuleLoad, kmodquery.EventModuleUnwitnessed},
	kmodquery.SourceEndpointSecurity: {kmodquery.EventKextload},
	kmodquery.SourceUnifiedLog:       {kmodquery.EventKextload},
	kmodquery.SourceShowloaded:       {kmodquery.EventKextload},
}

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
		Events:  trc1017EventNames(),
		Columns: append([]string{"type"}, loadColumns...),
		Match: func(e *kmodquery.Event) (string, bool) {
			if !slices.Contains(trc1017Events[e.Source], e.EventName) ||
				e.EventName == kmodquery.EventSecurityKernelReadFile && e.Type != kmodquery.TypeKernelModule {
				return "", false
			}
			return describeLoad(e), true
		},
	}
}

func trc1017EventNames() []string {
	names := slices.Concat(slices.Collect(maps.Values(trc1017Events))...)
	slices.Sort(names)
	return slices.Compact(names)
}

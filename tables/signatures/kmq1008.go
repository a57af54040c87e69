package signatures

import "github.com/kmodquery/kmodquery"

// kmq1008 returns the signature of loads by a process of a container.
func kmq1008() kmodquery.Signature {
	return ofLoads(kmodquery.Signature{
		Metadata: metadata("KMQ-1008", "1", "container_kernel_module", "Kernel module loaded from a container",
			"A process in a container loaded a module into the host's kernel, or tried to. A container with CAP_SYS_MODULE owns the host.",
			kmodquery.SeverityHigh, escape),
		Facts:          []string{"container_id", "cgroup", "pid_ns", "mnt_ns", "process_path", "cmdline", "capabilities"},
		Condition:      "container_id is known: the loader's control group is that of a container.",
		FalsePositives: "Containers that administer their host: drivers of storage and network plugins, GPU operators and security agents.",
		Silence:        "signature_id = 'KMQ-1008' AND coalesce(sha256, '') = 'HASH'",
		Sigma: kmodquery.Sigma{
			Selections: matching("selection", "container_id", ".+"),
			Condition:  "selection",
		},
	}, func(e *kmodquery.Event) string {
		if e.ContainerID == "" {
			return ""
		}
		return "the loader is in container " + quote(e.ContainerID)
	})
}

package signatures

import "github.com/kmodquery/kmodquery"

// kmq1001 returns the signature of modules without a signature that the kernel trusts.
func kmq1001() kmodquery.Signature {
	return ofLoads(kmodquery.Signature{
		Metadata: metadata("KMQ-1001", "1", "untrusted_kernel_module", "Kernel module without a trusted signature",
			"A module was loaded, or refused, that has no signature, or one that the kernel does not trust: it lacks the key, or does not check signatures. Distributions sign "+
				"their modules, so the code comes from elsewhere.",
			kmodquery.SeverityLow, kernelModules),
		Facts:          []string{"signature_status", "signer", "signature_key_id", "sha256", "path"},
		Condition:      "signature_status is unsigned, untrusted or rejected.",
		FalsePositives: "Modules that dkms, a vendor's installer or a developer built on this host, and all modules of a kernel that its owner built without signing.",
		Silence:        "signature_id = 'KMQ-1001' AND coalesce(sha256, '') = 'HASH'",
		Sigma: kmodquery.Sigma{
			Selections: "selection:\n  signature_status: [unsigned, untrusted, rejected]\n",
			Condition:  "selection",
		},
	}, func(e *kmodquery.Event) string {
		switch e.SignatureStatus {
		case kmodquery.SignatureUnsigned:
			return "it has no signature"
		case kmodquery.SignatureUntrusted:
			return "the kernel does not trust its signature"
		case kmodquery.SignatureRejected:
			return "the kernel refuses it because of its signature"
		}
		return ""
	})
}

package signatures

import "github.com/kmodquery/kmodquery"

// A technique is what a signature states of MITRE ATT&CK: the tactic, the technique's name, its
// STIX id and its number, as of version 19, which names the tactic stealth that earlier versions
// had as a part of defense-evasion.
type technique struct{ tactic, name, id, number string }

var (
	kernelModules = technique{"persistence", "Kernel Modules and Extensions", "attack-pattern--a1b52199-c8c5-438a-9ded-656f1d0888c6", "T1547.006"}
	rootkit       = technique{"stealth", "Rootkit", "attack-pattern--0f20e3cb-245b-4a61-8a91-2d93f7cb0e9b", "T1014"}
	removal       = technique{"stealth", "Indicator Removal", "attack-pattern--799ace7f-e227-4411-baa0-8868704f2a69", "T1070"}
	escape        = technique{"privilege-escalation", "Escape to Host", "attack-pattern--4a5b7ade-8bb5-4853-84ed-23f262002665", "T1611"}
)

// metadata returns the metadata of a signature of this project.
func metadata(id, version, event, name, description string, severity int64, t technique) kmodquery.Metadata {
	return kmodquery.Metadata{
		ID: id, Version: version, Name: name, EventName: event, Description: description, Severity: severity,
		Category: t.tactic, Technique: t.name, KubernetesTechnique: "N/A", AttackID: t.id, ExternalID: t.number,
	}
}

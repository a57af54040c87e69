package kmodquery

// Metadata describes a detection.
type Metadata struct {
	ID                  string `json:"signature_id"`
	Version             string `json:"signature_version"`
	Name                string `json:"signature_name"`
	EventName           string `json:"event_name"`
	Description         string `json:"description"`
	Severity            int64  `json:"severity"`
	Category            string `json:"category"`
	Technique           string `json:"technique"`
	KubernetesTechnique string `json:"kubernetes_technique"`
	AttackID            string `json:"attack_id"`   // the STIX id of the ATT&CK object
	ExternalID          string `json:"external_id"` // ATT&CK's own number
}

// A Signature judges events. It is data and a pure function of one event:
// what needs memory is an attribute of the event, gathered at collection.
type Signature struct {
	Metadata
	// Events are the only event names that Match can accept. The store reads
	// no others for it.
	Events []string
	// Columns are the event columns that Match looks at.
	Columns []string
	// Match reports whether the event is a finding and, for people, why. It
	// must not keep or change the event and is called concurrently.
	Match func(*Event) (reason string, ok bool)
}

// A Finding is one event that one signature accepted.
type Finding struct {
	Metadata
	Reason string
	// Data is what the signature adds to the event, as JSON; empty where it
	// adds nothing.
	Data  string
	Event *Event
}

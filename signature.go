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
	AttackID            string `json:"attack_id"`   // STIX id of the ATT&CK object
	ExternalID          string `json:"external_id"` // ATT&CK's own number, such as T1547.006
}

// A Signature is a detection: data and a pure function of one event. A detection
// that needs the past takes it from an attribute of the event that was computed at
// collection, such as FirstSeen.
type Signature struct {
	Metadata
	// Events are the names of all events that Match can accept. Only these are
	// read from the store for it.
	Events []string
	// Columns are the event columns that Match reads.
	Columns []string
	// Match reports whether the event is a finding and, in one sentence, why. It
	// must not keep or change the event, and it is called concurrently.
	Match func(*Event) (reason string, ok bool)
}

// A Finding is one event that one signature accepted.
type Finding struct {
	Metadata
	Reason string
	// Data is a JSON object that the signature adds to the event; empty if it adds
	// nothing.
	Data  string
	Event *Event
}

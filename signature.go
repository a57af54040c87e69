package kmodquery

// Metadata describes a detection.
type Metadata struct {
	ID                  string `json:"signature_id"`
	Version             string `json:"signature_version"`
	Name                string `json:"signature_name"`
	EventName           string `json:"event_name"`
	Description         string `json:"description"`
	Severity            int64  `json:"severity"` // one of the Severity constants
	Category            string `json:"category"`
	Technique           string `json:"technique"`
	KubernetesTechnique string `json:"kubernetes_technique"`
	AttackID            string `json:"attack_id"`   // STIX id of the ATT&CK object
	ExternalID          string `json:"external_id"` // ATT&CK's own number, such as T1547.006
}

// Severities of signatures.
const (
	SeverityInfo     = 0 // expected on this host, or of interest only beside another finding
	SeverityLow      = 1 // honest hosts have it, such as a module that dkms built
	SeverityModerate = 2 // deserves a look
	SeverityHigh     = 3 // rare on honest hosts; the signature names which
	SeverityCritical = 4 // code in the kernel, or on its way there, hides itself or its origin
)

// A Signature is a detection: data and a pure function of one event. A detection
// that needs the past takes it from an attribute of the event that was computed at
// collection, such as FirstSeen.
type Signature struct {
	Metadata
	// Events are the names of all events that Match can accept. Only these are
	// read from the store for it.
	Events []string
	// LoadReports is set if Match accepts only events for which [Event.IsLoadReport] is true.
	// The other events of a load, which are most, are then not read for the signature.
	LoadReports bool
	// Columns are the event columns that Match reads.
	Columns []string
	// Match reports whether the event is a finding and, in one sentence, why. It
	// must not keep or change the event, and it is called concurrently.
	Match func(*Event) (reason string, ok bool)
	// Facts are those of Columns whose values show why the event is a finding. A finding's
	// data has them.
	Facts []string
	// Condition says in one sentence what Match accepts, FalsePositives what honest hosts
	// do that it accepts too, and Silence is an example of a condition in SQL that leaves
	// such findings out. The reference of the detections is written from them.
	Condition, FalsePositives, Silence string
	// Sigma accepts the same in a Sigma rule on rows of kernel_module_events.
	Sigma Sigma
}

// A Sigma is the detection of a Sigma rule.
type Sigma struct {
	Selections string // the selections, in YAML
	Condition  string // what combines their names
}

// A Finding is one event that one signature accepted.
type Finding struct {
	Metadata
	Reason string
	Facts  []string // of the signature
	Event  *Event
	// ExpectedBy is the expectation that lowered the severity, as its file and line; "" if
	// none did.
	ExpectedBy string
}

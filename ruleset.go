package kmodquery

// A RuleSet is what the configuration of a host adds to the signatures: rules, which are
// signatures of its own, and expectations, which lower the severity of findings. It is what
// one reading of the configuration found, and does not change.
type RuleSet struct {
	// Rules accept the events that close loads.
	Rules []Signature
	// Expected returns which expectation a finding meets, as the file and the line of it,
	// or "" if it meets none. It is called concurrently. It is nil without expectations.
	Expected func(*Finding) string
	// ExpectedColumns are the event columns that Expected reads.
	ExpectedColumns []string
	Status          RuleStatus
}

// RuleStatus is the state of a [RuleSet].
type RuleStatus struct {
	Rules        int64
	Expectations int64
	// RulesHash and ExpectationsHash are the SHA-256, in hex, of the names and the contents of
	// the files in force. They are "" if there are none.
	RulesHash        string
	ExpectationsHash string
	Errors           int64  // evaluations that failed since the rules in force were read
	Reason           string // what is wrong with the files, and which rules failed, in one line
}

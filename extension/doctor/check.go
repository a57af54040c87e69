package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"
)

// A Status says how well a requirement is met.
type Status string

// The statuses, from the best to the worst.
const (
	OK       Status = "ok"
	Note     Status = "note"     // something is missing that is not needed here
	Unknown  Status = "unknown"  // this process cannot find out
	Warning  Status = "warning"  // something works with limits
	Critical Status = "critical" // kmodquery records nothing, or osquery does not get what it records
)

var statuses = []Status{OK, Note, Unknown, Warning, Critical}

// rank is higher for worse statuses.
func (s Status) rank() int { return slices.Index(statuses, s) }

// A Result is what a check found out about one requirement.
type Result struct {
	Name   string `json:"name"`
	Status Status `json:"status"`
	Reason string `json:"reason"`
	Remedy string `json:"remedy,omitempty"` // what to do; empty if nothing need be done
}

// A Check checks one requirement, or several that are found out together.
type Check struct {
	Name string
	// Run returns at least one result. A result without a name gets that of the check.
	Run func(ctx context.Context) []Result
}

// Timeout is how long each check may take. An emulated kernel takes seconds for its types.
const Timeout = 15 * time.Second

// Run runs all checks at once and returns their results in the order of the checks. A check
// that takes longer than within has the status unknown; it may run on.
func Run(ctx context.Context, within time.Duration, checks []Check) (results []Result) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	pending := make([]chan []Result, len(checks))
	for i, check := range checks {
		pending[i] = make(chan []Result, 1)
		go func() { pending[i] <- check.run(ctx) }()
	}
	for i, check := range checks {
		var found []Result
		select {
		case found = <-pending[i]:
		case <-ctx.Done():
			select {
			case found = <-pending[i]: // both were ready
			default:
				found = []Result{{Status: Unknown, Reason: fmt.Sprintf("the check did not end within %v", within), Remedy: "look for a file system or a process that does not answer"}}
			}
		}
		for _, r := range found {
			if r.Name == "" {
				r.Name = check.Name
			}
			results = append(results, r)
		}
	}
	return results
}

// run makes a panic a result, because the other checks are still worth having.
func (c Check) run(ctx context.Context) (found []Result) {
	defer func() {
		if p := recover(); p != nil {
			found = []Result{{Status: Unknown, Reason: fmt.Sprintf("the check failed: %v", p), Remedy: "report this as a bug"}}
		}
	}()
	return c.Run(ctx)
}

// Worst returns the worst status of the results.
func Worst(results []Result) Status {
	worst := OK
	for _, r := range results {
		if r.Status.rank() > worst.rank() {
			worst = r.Status
		}
	}
	return worst
}

// ExitCode returns the exit code for a worst status. The codes are those of monitoring
// plugins: 0, 1 for a warning, 2 if it is critical, and 3 if something is unknown.
func (s Status) ExitCode() int {
	return map[Status]int{Warning: 1, Critical: 2, Unknown: 3}[s]
}

// one returns the results of a check that has one.
func one(status Status, reason, remedy string) []Result {
	return []Result{{Status: status, Reason: reason, Remedy: remedy}}
}

// unreadable is the result for a file that could not be read. Without permission nothing is
// known of it.
func unreadable(err error, remedy string) []Result {
	if errors.Is(err, fs.ErrPermission) {
		return one(Unknown, err.Error(), "run doctor as root")
	}
	return one(Warning, err.Error(), remedy)
}

package kmodquery

import "errors"

// ErrNotSupported says that this host cannot do something at all; errors that
// match it with errors.Is name what is missing. Everything else is a failure
// of something that should have worked.
var ErrNotSupported = errors.New("not supported")

// ErrNotStored says that the event store takes no events for now and that they
// wait in memory. What it took before can be read.
var ErrNotStored = errors.New("events wait to be stored")

// A NotSupportedError names the missing thing and what would provide it.
type NotSupportedError struct {
	Missing string // what the host lacks
	Need    string // what would do: a kernel version, a build option, a permission
}

func (e *NotSupportedError) Error() string {
	if e.Need == "" {
		return "not supported: " + e.Missing
	}
	return "not supported: " + e.Missing + "; needs " + e.Need
}

// Is makes errors.Is(err, ErrNotSupported) true.
func (e *NotSupportedError) Is(target error) bool { return target == ErrNotSupported }

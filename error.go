package kmodquery

import "errors"

// ErrNotSupported matches an error of an operation that this host can never do. An error
// that does not match it is a failure of something that works on this host.
var ErrNotSupported = errors.New("not supported")

// ErrNotStored matches an error of a query that could not wait for all earlier events: the
// store accepts none, or the store or a source did not answer in time. Those events wait
// in memory or in the kernel. Stored events can still be read.
var ErrNotStored = errors.New("events wait to be stored")

// A NotSupportedError says why this host cannot do something. It matches
// [ErrNotSupported].
type NotSupportedError struct {
	Missing string // what the host lacks
	Need    string // the kernel version, build option or permission that provides it
}

func (e *NotSupportedError) Error() string {
	if e.Need == "" {
		return "not supported: " + e.Missing
	}
	return "not supported: " + e.Missing + "; needs " + e.Need
}

// Is makes errors.Is(err, ErrNotSupported) true.
func (e *NotSupportedError) Is(target error) bool { return target == ErrNotSupported }

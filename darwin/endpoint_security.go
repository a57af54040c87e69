package darwin

import (
	"context"
	"time"

	"github.com/kmodquery/kmodquery"
)

// EndpointSecurity stands for the source that will watch kernel extensions. It
// reports itself unavailable, so that nobody takes an empty table for a quiet
// host.
type EndpointSecurity struct{ since time.Time }

// NewEndpointSecurity returns the source.
func NewEndpointSecurity() *EndpointSecurity { return &EndpointSecurity{since: time.Now()} }

// Name is the source's name in the tables.
func (s *EndpointSecurity) Name() string { return kmodquery.SourceEndpointSecurity }

// Run returns an error that matches kmodquery.ErrNotSupported.
func (s *EndpointSecurity) Run(context.Context, func(), func(kmodquery.Event)) error {
	return unsupported()
}

// Sync returns at once.
func (s *EndpointSecurity) Sync(context.Context) error { return nil }

// Sensor says that nothing is watched.
func (s *EndpointSecurity) Sensor() kmodquery.Sensor {
	return kmodquery.Sensor{
		Source: s.Name(),
		State:  kmodquery.StateUnavailable,
		Reason: unsupported().Error(),
		Since:  s.since.Unix(),
	}
}

func unsupported() error {
	return &kmodquery.NotSupportedError{Missing: "kmodquery " + kmodquery.Version + " does not watch macOS"}
}

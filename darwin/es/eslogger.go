package es

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/kmodquery/kmodquery"
)

// esloggerEvents are the events that are asked for, by eslogger's names.
var esloggerEvents = []string{"kextload", "kextunload"}

// esloggerHooks are these events as the sensors table shows them.
func esloggerHooks() []string {
	var hooks []string
	for _, event := range esloggerEvents {
		hooks = append(hooks, event+" (eslogger)")
	}
	return hooks
}

// startEslogger has eslogger print kernel extensions coming and going. It leaves
// out what its own process group does, so it has one of its own.
func startEslogger(ctx context.Context, path string) (*ptyProgram, error) {
	p, err := startOnPty(ctx, path, esloggerEvents...)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &kmodquery.NotSupportedError{
			Missing: "there is no " + path + " on this host",
			Need:    "macOS 13 or later",
		}
	}
	return p, err
}

// complaints are what eslogger says when it gives up, and what to do.
// The results are those of es_new_client (EndpointSecurity/ESTypes.h); the words
// around them are not relied on.
var complaints = []struct {
	text    string
	explain func(said string) error
}{
	// Nothing needs to be restarted once it was granted, so this one is no
	// NotSupportedError.
	{"ES_NEW_CLIENT_RESULT_ERR_NOT_PERMITTED", func(said string) error {
		return fmt.Errorf("eslogger is not permitted to watch: give Full Disk Access to the responsible process, which is osqueryd or "+
			"whatever else starts this program, in System Settings > Privacy & Security or by a PPPC profile (%s)", said)
	}},
	{"ES_NEW_CLIENT_RESULT_ERR_NOT_PRIVILEGED", func(string) error {
		return &kmodquery.NotSupportedError{Missing: "eslogger may not watch for this user", Need: "root"}
	}},
	{"ES_NEW_CLIENT_RESULT_ERR_NOT_ENTITLED", func(string) error {
		return &kmodquery.NotSupportedError{Missing: "eslogger lacks its entitlement", Need: "the eslogger that comes with macOS"}
	}},
	{"ES_NEW_CLIENT_RESULT_ERR_TOO_MANY_CLIENTS", func(said string) error {
		return fmt.Errorf("too many Endpoint Security clients run on this host: end one of them (%s)", said)
	}},
	{"Failed to parse event types", func(said string) error {
		return &kmodquery.NotSupportedError{
			Missing: "eslogger does not know " + strings.Join(esloggerEvents, " or ") + " here (" + said + ")",
			Need:    "macOS 13 or later",
		}
	}},
}

// explain says why eslogger ended, and what to do about it. It never
// ends by itself when all is well.
func explain(ended error, said string) error {
	for _, c := range complaints {
		if strings.Contains(said, c.text) {
			return c.explain(said)
		}
	}
	if ended == nil {
		ended = errors.New("it should have gone on")
	}
	if said != "" {
		return fmt.Errorf("eslogger ended: %w: %s", ended, said)
	}
	return fmt.Errorf("eslogger ended: %w", ended)
}

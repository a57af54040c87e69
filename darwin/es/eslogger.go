package es

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/kmodquery/kmodquery"
)

// esloggerEvents are the subscribed events, by eslogger's names.
var esloggerEvents = []string{"kextload", "kextunload"}

// esloggerHooks returns these events as the sensors table shows them.
func esloggerHooks() []string {
	var hooks []string
	for _, event := range esloggerEvents {
		hooks = append(hooks, event+" (eslogger)")
	}
	return hooks
}

// startEslogger starts eslogger. It does not report the events of its own process
// group, so it runs in a group of its own.
func startEslogger(ctx context.Context, path string, stderrTimeout time.Duration) (*ptyProgram, error) {
	p, err := startOnPty(ctx, stderrTimeout, path, esloggerEvents...)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &kmodquery.NotSupportedError{
			Missing: "there is no " + path + " on this host",
			Need:    "macOS 13 or later",
		}
	}
	return p, err
}

// exitCauses are the errors with which eslogger exits, and what to do about each. The
// texts are the results of es_new_client (EndpointSecurity/ESTypes.h); the words
// around them vary.
var exitCauses = []struct {
	text    string
	explain func(stderr string) error
}{
	// eslogger works as soon as the access is granted, so this error is not a
	// NotSupportedError: the source is started again.
	{"ES_NEW_CLIENT_RESULT_ERR_NOT_PERMITTED", func(stderr string) error {
		return fmt.Errorf("eslogger is not permitted to watch: give Full Disk Access to the responsible process, which is osqueryd or "+
			"the program that starts this one, in System Settings > Privacy & Security or by a PPPC profile (%s)", stderr)
	}},
	{"ES_NEW_CLIENT_RESULT_ERR_NOT_PRIVILEGED", func(string) error {
		return &kmodquery.NotSupportedError{Missing: "eslogger may not watch for this user", Need: "root"}
	}},
	{"ES_NEW_CLIENT_RESULT_ERR_NOT_ENTITLED", func(string) error {
		return &kmodquery.NotSupportedError{Missing: "eslogger lacks its entitlement", Need: "the eslogger that comes with macOS"}
	}},
	{"ES_NEW_CLIENT_RESULT_ERR_TOO_MANY_CLIENTS", func(stderr string) error {
		return fmt.Errorf("too many Endpoint Security clients run on this host: end one of them (%s)", stderr)
	}},
	{"Failed to parse event types", func(stderr string) error {
		return &kmodquery.NotSupportedError{
			Missing: "eslogger does not know " + strings.Join(esloggerEvents, " or ") + " here (" + stderr + ")",
			Need:    "macOS 13 or later",
		}
	}},
}

// explainExit returns an error that says why eslogger exited and what to do about
// it. exit is the error of the process, nil for status 0.
func explainExit(exit error, stderr string) error {
	for _, c := range exitCauses {
		if strings.Contains(stderr, c.text) {
			return c.explain(stderr)
		}
	}
	if exit == nil {
		exit = errors.New("exit status 0")
	}
	if stderr != "" {
		return fmt.Errorf("eslogger exited unexpectedly: %w: %s", exit, stderr)
	}
	return fmt.Errorf("eslogger exited unexpectedly: %w", exit)
}

package es

import (
	"errors"
	"fmt"
	"strings"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/internal/cmdout"
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

// explainExit returns an error that says why eslogger exited and what to do about it.
// exit is the error of the process, nil for status 0. eslogger prints the result of
// es_new_client (EndpointSecurity/ESTypes.h); the words around it vary.
func explainExit(exit error, stderr *cmdout.Head) error {
	text := stderr.Line()
	has := func(cause string) bool { return strings.Contains(text, cause) }
	switch {
	case has("ES_NEW_CLIENT_RESULT_ERR_NOT_PERMITTED"):
		// eslogger works as soon as the access is granted, so this error is not a
		// NotSupportedError: the source is started again.
		return fmt.Errorf("eslogger is not permitted to watch: give Full Disk Access to the responsible process, "+
			"which is osqueryd or the program that starts this one, in System Settings > Privacy & Security "+
			"or by a PPPC profile (%s)", text)
	case has("ES_NEW_CLIENT_RESULT_ERR_NOT_PRIVILEGED"):
		return &kmodquery.NotSupportedError{Missing: "eslogger may not watch for this user", Need: "root"}
	case has("ES_NEW_CLIENT_RESULT_ERR_NOT_ENTITLED"):
		return &kmodquery.NotSupportedError{Missing: "eslogger lacks its entitlement", Need: "the eslogger that comes with macOS"}
	case has("ES_NEW_CLIENT_RESULT_ERR_TOO_MANY_CLIENTS"):
		return fmt.Errorf("too many Endpoint Security clients run on this host: end one of them (%s)", text)
	case has("Failed to parse event types"):
		return &kmodquery.NotSupportedError{
			Missing: "eslogger does not know " + strings.Join(esloggerEvents, " or ") + " here (" + text + ")",
			Need:    "macOS 13 or later",
		}
	case exit == nil:
		exit = errors.New("exit status 0")
	}
	return fmt.Errorf("eslogger exited unexpectedly: %w%s", exit, stderr.Said())
}

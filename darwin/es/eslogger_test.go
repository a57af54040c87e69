package es

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/darwin/host"
)

func TestTheErrorSaysWhatEsloggerLacks(t *testing.T) {
	for _, test := range []struct {
		name, stderr string
		isSupported  bool
		want         string
	}{
		{"Full Disk Access", "Failed to create ES client: Not permitted to create an ES Client, responsible process needs TCC Full Disk Access authorization (ES_NEW_CLIENT_RESULT_ERR_NOT_PERMITTED)", true,
			"eslogger is not permitted to watch: give Full Disk Access to the responsible process, which is osqueryd or the program that starts this one, in System Settings > Privacy & Security or by a PPPC profile (Failed to create ES client: Not permitted to create an ES Client, responsible process needs TCC Full Disk Access authorization (ES_NEW_CLIENT_RESULT_ERR_NOT_PERMITTED))"},
		{"root", "Failed to create ES client: Not privileged to create an ES client, need to be superuser (ES_NEW_CLIENT_RESULT_ERR_NOT_PRIVILEGED)", false,
			"not supported: eslogger may not watch for this user; needs root"},
		{"other text", "anything (ES_NEW_CLIENT_RESULT_ERR_NOT_ENTITLED)", false,
			"not supported: eslogger lacks its entitlement; needs the eslogger that comes with macOS"},
		{"too many clients", "anything (ES_NEW_CLIENT_RESULT_ERR_TOO_MANY_CLIENTS)", true,
			"too many Endpoint Security clients run on this host: end one of them (anything (ES_NEW_CLIENT_RESULT_ERR_TOO_MANY_CLIENTS))"},
		{"the event types", "Failed to parse event types: Unsupported event kextload", false,
			"not supported: eslogger does not know kextload or kextunload here (Failed to parse event types: Unsupported event kextload); needs macOS 13 or later"},
		{"unknown", "a surprise", true, "eslogger exited unexpectedly: exit status 1: a surprise"},
		{"a long error", strings.Repeat("word ", 10_000), true, "eslogger exited unexpectedly: exit status 1: " + strings.TrimSpace(strings.Repeat("word ", 10_000)[:host.MaxStderr])},
	} {
		t.Run(test.name, func(t *testing.T) {
			// The source must not become ready before the stand-in has run.
			w := watch(t, "say "+test.stderr+"\nexit 1\n", func(o *timeouts) { o.alive = within })
			err := w.end(t)
			require.EqualError(t, err, test.want)
			require.Equal(t, !test.isSupported, errors.Is(err, kmodquery.ErrNotSupported))
			state := kmodquery.StateUnavailable
			if test.isSupported {
				state = kmodquery.StateFailed
			}
			require.Equal(t, state, w.Sensor().State)
			reason, isCut := strings.CutSuffix(w.Sensor().Reason, "…")
			require.Equal(t, len(test.want) > 1<<10, isCut)
			require.Equal(t, test.want[:len(reason)], reason)
			require.Empty(t, w.Sensor().Hooks)
			select {
			case <-w.ready:
				require.Fail(t, "the source never watched")
			default:
			}
		})
	}
}

func TestASourceWithoutEsloggerIsNotSupported(t *testing.T) {
	s := New(Options{Eslogger: "/nonexistent/eslogger"})
	err := s.Run(t.Context(), func() {}, func(kmodquery.Delivery) {})
	require.ErrorIs(t, err, kmodquery.ErrNotSupported)
	require.EqualError(t, err, "not supported: there is no /nonexistent/eslogger on this host; needs macOS 13 or later")
}

func TestTheErrorSaysHowEsloggerEnded(t *testing.T) {
	for _, test := range []struct{ name, play, want string }{
		{"by itself", "exit 0\n", "eslogger exited unexpectedly: exit status 0"},
		{"killed", "die\n", "eslogger exited unexpectedly: signal: killed"},
		{"killed after an event", esRecord("a", 0) + "die\n", "eslogger exited unexpectedly: signal: killed"},
		{"without a terminal", "close\n", "eslogger closed its output and still runs; it is started again"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := watch(t, test.play, func(o *timeouts) {
				if test.play == "close\n" {
					o.drain = 10 * time.Millisecond
				}
			})
			require.EqualError(t, w.end(t), test.want)
			require.Equal(t, kmodquery.StateFailed, w.Sensor().State)
			require.Equal(t, strings.Contains(test.play, "print"), len(w.names()) == 1, "an event that was printed is emitted")
		})
	}
}

//go:build linux

package linux

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kmodquery/kmodquery"
)

// maxReason bounds what a source says of itself beside what makes it fail, in
// bytes: it may come from a log.
const maxReason = 1024

// An account is what a source knows of itself, and who waits for it.
type account struct {
	mu      sync.Mutex
	sensor  kmodquery.Sensor
	wake    func()        // makes Run look at waiting; nil while it does not run
	ended   chan struct{} // closed when Run has ended
	waiting []chan struct{}

	received, lost, decodeErrors, incomplete, folded, lastEvent atomic.Int64
}

func newAccount(source string) account {
	return account{sensor: kmodquery.Sensor{Source: source, State: kmodquery.StateStandby, Since: time.Now().Unix()}}
}

// Name is the source's name in the tables.
func (a *account) Name() string { return a.sensor.Source }

// Sync returns when every record that the source could see before the call was
// given to emit; at once when it is not running.
func (a *account) Sync(ctx context.Context) error {
	a.mu.Lock()
	if a.wake == nil {
		a.mu.Unlock()
		return nil
	}
	done, ended := make(chan struct{}), a.ended
	a.waiting = append(a.waiting, done)
	a.wake()
	a.mu.Unlock()
	select {
	case <-done:
	case <-ended:
	case <-ctx.Done():
		a.mu.Lock()
		defer a.mu.Unlock()
		// Those who give up must not gather behind a source that hangs.
		a.waiting = slices.DeleteFunc(a.waiting, func(other chan struct{}) bool { return other == done })
		return fmt.Errorf("wait for the records of %s: %w", a.Name(), ctx.Err())
	}
	return nil
}

// takeWaiting returns the Syncs of the moment.
func (a *account) takeWaiting() []chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	waiting := a.waiting
	a.waiting = nil
	return waiting
}

// Sensor is the source's own account of itself.
func (a *account) Sensor() kmodquery.Sensor {
	a.mu.Lock()
	defer a.mu.Unlock()
	sensor := a.sensor
	sensor.Received = a.received.Load()
	sensor.Lost = a.lost.Load()
	sensor.DecodeErrors = a.decodeErrors.Load()
	sensor.EnrichErrors = a.incomplete.Load()
	sensor.Denied = a.folded.Load()
	sensor.LastEventTime = a.lastEvent.Load()
	return sensor
}

// tell counts an event that is about to be emitted.
func (a *account) tell(e *kmodquery.Event) {
	if e.Missing != "" {
		a.incomplete.Add(1)
	}
	if e.Count != nil {
		a.folded.Add(*e.Count - 1)
	}
	a.lastEvent.Store(e.Time)
}

// begin notes that the source watches what hooks names. From here on wake, which
// must not block, is called for each Sync. The limits are what a reader should
// know though all is well.
func (a *account) begin(hooks []string, limits string, wake func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.wake, a.ended = wake, make(chan struct{})
	text, _ := json.Marshal(hooks)
	a.sensor.Hooks = string(text)
	a.sensor.State, a.sensor.Reason, a.sensor.Since = kmodquery.StateActive, limits, time.Now().Unix()
}

// remark says what the source cannot see, instead of what was said before.
func (a *account) remark(limits string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sensor.Reason = limits
}

// note says more of what the source cannot see, once.
func (a *account) note(limit string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !strings.Contains(a.sensor.Reason, limit) && len(a.sensor.Reason) < maxReason {
		a.sensor.Reason += "; " + oneLine(errors.New(limit))
	}
}

// settle notes that the source watches no more, and why: nil where it was asked
// to end.
func (a *account) settle(cause error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.wake != nil {
		a.wake = nil
		close(a.ended)
	}
	a.waiting = nil
	a.sensor.Hooks = ""
	a.sensor.State, a.sensor.Reason, a.sensor.Since = kmodquery.StateStandby, "", time.Now().Unix()
	switch {
	case errors.Is(cause, kmodquery.ErrNotSupported):
		a.sensor.State, a.sensor.Reason = kmodquery.StateUnavailable, oneLine(cause)
	case cause != nil:
		a.sensor.State, a.sensor.Reason = kmodquery.StateFailed, oneLine(cause)
	}
}

func answer(waiting []chan struct{}) {
	for _, done := range waiting {
		close(done)
	}
}

// oneLine is an error as one line, whatever it quotes.
func oneLine(err error) string {
	lines := strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' || r == '\t' })
	return strings.Join(slices.DeleteFunc(lines, func(l string) bool { return strings.TrimSpace(l) == "" }), "; ")
}

package account

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

// An Account is what a source knows of itself, and who waits for it. A source
// keeps it to itself and hands out what its Name, Sync and Sensor return. All
// methods may be called concurrently.
type Account struct {
	// Received, Lost and DecodeErrors are the source's to count, as the fields of
	// kmodquery.Sensor of these names are.
	Received, Lost, DecodeErrors atomic.Int64

	incomplete, folded, lastEvent atomic.Int64

	asked chan struct{} // has room for one

	mu      sync.Mutex // guards what follows, but for the sensor's Source, which never changes
	sensor  kmodquery.Sensor
	wake    func()        // see Begin; may be nil
	ended   chan struct{} // closed when Run has ended; nil while it does not run
	waiting Waiting

	position string // the last one that was told
}

// New returns the account of a source that does not run yet. The name is one of
// the Source constants.
func New(source string) *Account {
	return &Account{
		asked:  make(chan struct{}, 1),
		sensor: kmodquery.Sensor{Source: source, State: kmodquery.StateStandby, Since: time.Now().Unix()},
	}
}

// Name is the source's name in the tables.
func (a *Account) Name() string { return a.sensor.Source }

// Sensor is the source's own account of itself.
func (a *Account) Sensor() kmodquery.Sensor {
	a.mu.Lock()
	defer a.mu.Unlock()
	sensor := a.sensor
	sensor.Received = a.Received.Load()
	sensor.Lost = a.Lost.Load()
	sensor.DecodeErrors = a.DecodeErrors.Load()
	sensor.EnrichErrors = a.incomplete.Load()
	sensor.Denied = a.folded.Load()
	sensor.LastEventTime = a.lastEvent.Load()
	return sensor
}

// Tell counts an event that is about to be emitted, and remembers its Position.
func (a *Account) Tell(e *kmodquery.Event) {
	if e.Missing != "" {
		a.incomplete.Add(1)
	}
	if e.Count != nil {
		a.folded.Add(*e.Count - 1)
	}
	a.lastEvent.Store(e.Time)
	if e.Position != "" {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.position = e.Position
	}
}

// Resume returns how far in its log an earlier Run has come, of this process or
// another: the position last told, which may not be stored yet, else the one that
// is stored. stored may be nil.
func (a *Account) Resume(ctx context.Context, stored func(context.Context) (string, error)) (string, error) {
	a.mu.Lock()
	told := a.position
	a.mu.Unlock()
	if told != "" || stored == nil {
		return told, nil
	}
	position, err := stored(ctx)
	if err != nil {
		return "", fmt.Errorf("ask the store how far the log was read: %w", err)
	}
	return position, nil
}

// Begin notes that the source watches what hooks names. The limits are what a
// reader should know though all is well. From here on, until Settle, each Sync is
// told to Asked, and calls wake unless that is nil. It must neither block nor
// call the account.
func (a *Account) Begin(hooks []string, limits string, wake func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.wake, a.ended = wake, make(chan struct{})
	text, _ := json.Marshal(hooks) // texts always encode
	a.sensor.Hooks = string(text)
	a.sensor.State, a.sensor.Reason, a.sensor.Since = kmodquery.StateActive, limits, time.Now().Unix()
}

// Fault says that the source watches and does not see all: whoever asks for
// sensors that are not active is to hear of it.
func (a *Account) Fault(cause error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sensor.State, a.sensor.Reason = kmodquery.StateFailed, OneLine(cause)
}

// Remark says what the source cannot see, instead of what was said before.
func (a *Account) Remark(limits string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sensor.Reason = limits
}

// Note says more of what the source cannot see, once, and nothing once much was
// said.
func (a *Account) Note(limit string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	limit = OneLine(errors.New(limit))
	if strings.Contains(a.sensor.Reason, limit) || len(a.sensor.Reason) >= maxReason {
		return
	}
	if a.sensor.Reason != "" {
		a.sensor.Reason += "; "
	}
	a.sensor.Reason += limit
}

// Gap notes when nothing watched.
func (a *Account) Gap(start, end time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sensor.GapStart, a.sensor.GapEnd = start.Unix(), end.Unix()
}

// Settle notes that the source watches no more, and why: nil where it was asked
// to end. Every Sync returns.
func (a *Account) Settle(cause error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ended != nil {
		close(a.ended)
	}
	a.wake, a.ended, a.waiting = nil, nil, nil
	a.sensor.Hooks = ""
	a.sensor.State, a.sensor.Reason, a.sensor.Since = kmodquery.StateStandby, "", time.Now().Unix()
	switch {
	case errors.Is(cause, kmodquery.ErrNotSupported):
		a.sensor.State, a.sensor.Reason = kmodquery.StateUnavailable, OneLine(cause)
	case cause != nil:
		a.sensor.State, a.sensor.Reason = kmodquery.StateFailed, OneLine(cause)
	}
}

// OneLine is an error as one line, whatever it quotes.
func OneLine(err error) string {
	lines := strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' || r == '\t' })
	return strings.Join(slices.DeleteFunc(lines, func(l string) bool { return strings.TrimSpace(l) == "" }), "; ")
}

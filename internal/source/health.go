package source

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
	"github.com/kmodquery/kmodquery/internal/progress"
)

// maxReason bounds a reason, in bytes: it may come from a log. Its parts, which "; " separates, are
// shortened until it fits, but not to less than minPart.
const (
	maxReason = 1024
	minPart   = 100
)

// A Health is the state and the counters of one source, and the Sync calls that
// wait for it. A source keeps its Health unexported and passes on what its Name,
// Sync and Sensor return. All methods may be called concurrently.
type Health struct {
	// Received, Lost, Filtered, DecodeErrors and Shed are the fields of kmodquery.Sensor of
	// these names. The source counts them itself.
	Received, Lost, Filtered, DecodeErrors, Shed atomic.Int64

	incomplete, folded, lastEvent atomic.Int64

	requests chan struct{} // capacity 1
	loop     progress.Loop // of Run

	mu      sync.Mutex       // guards the fields below
	sensor  kmodquery.Sensor // its Source never changes and may be read without mu
	wake    func()           // see Started; may be nil
	ended   chan struct{}    // closed when Run ends; nil while it does not run
	pending Pending
	loops   []*progress.Loop // those of AddLoop

	position string // of the last event that was emitted with one
}

// New returns the health of a source that does not run yet. The name is one of
// the Source constants.
func New(name string) *Health {
	return &Health{
		requests: make(chan struct{}, 1),
		sensor:   kmodquery.Sensor{Source: name, State: kmodquery.StateStandby, Since: time.Now().Unix()},
	}
}

// Name returns the source's name in the tables.
func (h *Health) Name() string { return h.sensor.Source }

// Sensor returns the source's state and counters. It shortens the reason to 1 KiB, its longest
// parts first.
func (h *Health) Sensor() kmodquery.Sensor {
	h.mu.Lock()
	defer h.mu.Unlock()
	sensor := h.sensor
	sensor.Reason = shortened(sensor.Reason)
	sensor.Received = h.Received.Load()
	sensor.Lost = h.Lost.Load()
	sensor.Filtered = h.Filtered.Load()
	sensor.DecodeErrors = h.DecodeErrors.Load()
	sensor.Shed = h.Shed.Load()
	sensor.EnrichErrors = h.incomplete.Load()
	sensor.Denied = h.folded.Load()
	sensor.LastEventTime = h.lastEvent.Load()
	return sensor
}

// shortened returns a reason that is shortened, so that a long part hides no other.
func shortened(reason string) string {
	for limit := maxReason; len(reason) > maxReason && limit > minPart; limit /= 2 {
		parts := strings.Split(reason, "; ")
		for i, part := range parts {
			if most := max(limit/2, minPart); len(part) > most {
				parts[i] = part[:most-len("…")] + "…"
			}
		}
		reason = strings.Join(parts, "; ")
	}
	return strings.ToValidUTF8(reason[:min(len(reason), maxReason)], "")
}

// Progress records that the loop of Run has completed a round. Between Started and
// Stopped it must be called at least every [progress.Interval].
func (h *Health) Progress() { h.loop.Round() }

// AddLoop returns another loop of the source, which must complete a round as often,
// until Stopped.
func (h *Health) AddLoop() *progress.Loop {
	loop := &progress.Loop{}
	loop.Round()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.loops = slices.DeleteFunc(h.loops, func(l *progress.Loop) bool { return l.Last().IsZero() }) // it has ended
	h.loops = append(h.loops, loop)
	return loop
}

// LastRound returns when the loop that is furthest behind completed its last round, or
// the zero time while the source does not run.
func (h *Health) LastRound() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	last := h.loop.Last()
	for _, loop := range h.loops {
		last = Earliest(last, loop.Last())
	}
	return last
}

// Emitted counts an event that is about to be emitted, and remembers its Position.
func (h *Health) Emitted(d *kmodquery.Delivery) {
	e := &d.Event
	if e.Missing != "" {
		h.incomplete.Add(1)
	}
	if e.Count != nil {
		h.folded.Add(*e.Count - 1)
	}
	h.lastEvent.Store(e.Time)
	if d.Position != "" {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.position = d.Position
	}
}

// Resume returns the position in the source's log at which Run continues: that of
// the last emitted event, which may not be stored yet, otherwise the one that
// stored returns. stored may be nil.
func (h *Health) Resume(ctx context.Context, stored func(context.Context) (string, error)) (string, error) {
	h.mu.Lock()
	emitted := h.position
	h.mu.Unlock()
	if emitted != "" || stored == nil {
		return emitted, nil
	}
	position, err := stored(ctx)
	if err != nil {
		return "", fmt.Errorf("ask the store how far the log was read: %w", err)
	}
	return position, nil
}

// Started records that the source watches what hooks lists. The limits become its
// reason: what it cannot see even when all is well. Until Stopped, each Sync sends
// to Requests and calls wake, unless wake is nil. wake must not block and must not
// call the Health. It may be called again before Stopped: the calls of Sync that wait
// go on waiting.
func (h *Health) Started(hooks []string, limits string, wake func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.wake = wake; h.ended == nil {
		h.ended = make(chan struct{})
	}
	h.Progress()
	text, _ := json.Marshal(hooks) // strings always encode
	h.sensor.Hooks, h.sensor.Reason = string(text), limits
	if h.sensor.State != kmodquery.StateActive {
		h.sensor.State, h.sensor.Since = kmodquery.StateActive, time.Now().Unix()
	}
}

// Degraded records that the source runs and does not see everything. Its state
// becomes failed, so that a query for sensors that are not active finds it.
func (h *Health) Degraded(cause error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sensor.State, h.sensor.Reason = kmodquery.StateFailed, OneLine(cause)
}

// SetReason replaces the source's stated limitation.
func (h *Health) SetReason(limits string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sensor.Reason = limits
}

// AddReason adds a limitation to those stated before. It does nothing if the
// limitation is stated already, or once the reason exceeds 16 KiB.
func (h *Health) AddReason(limit string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	limit = OneLine(errors.New(limit))
	if strings.Contains(h.sensor.Reason, limit) || len(h.sensor.Reason) >= 16*maxReason {
		return
	}
	if h.sensor.Reason != "" {
		h.sensor.Reason += "; "
	}
	h.sensor.Reason += limit
}

// SetGap records the last time in which the source did not watch.
func (h *Health) SetGap(start, end time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sensor.GapStart, h.sensor.GapEnd = start.Unix(), end.Unix()
}

// Stopped records that the source no longer watches, and why; the cause is nil if
// it was asked to stop. Every Sync returns.
func (h *Health) Stopped(cause error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended != nil {
		close(h.ended)
	}
	h.wake, h.ended, h.pending, h.loops = nil, nil, nil, nil
	h.loop.End()
	h.sensor.Hooks = ""
	h.sensor.State, h.sensor.Reason, h.sensor.Since = kmodquery.StateStandby, "", time.Now().Unix()
	switch {
	case errors.Is(cause, kmodquery.ErrNotSupported):
		h.sensor.State, h.sensor.Reason = kmodquery.StateUnavailable, OneLine(cause)
	case cause != nil:
		h.sensor.State, h.sensor.Reason = kmodquery.StateFailed, OneLine(cause)
	}
}

// OneLine returns the text of an error as one line.
func OneLine(err error) string {
	lines := strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' || r == '\t' })
	return strings.Join(slices.DeleteFunc(lines, func(l string) bool { return strings.TrimSpace(l) == "" }), "; ")
}

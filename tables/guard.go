package tables

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"
)

// A guard gives each call a deadline, bounds the calls that run at once, and recovers
// from panics.
type guard struct {
	timeout time.Duration
	slots   chan struct{}
}

func newGuard(timeout time.Duration, concurrency int) *guard {
	return &guard{timeout: timeout, slots: make(chan struct{}, concurrency)}
}

// WithTimeout returns a context for a call that may take so long. Its cause says what to
// do if it takes longer.
func WithTimeout(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	late := fmt.Errorf("no answer within %v; ask for less, such as a window of time", timeout)
	return context.WithTimeoutCause(ctx, timeout, late)
}

// run calls generate and returns when generate does, the deadline passes or ctx ends. A
// generate that ignores its context keeps its slot until it returns, which bounds the
// calls that hang.
func (g *guard) run(ctx context.Context, generate func(context.Context) ([]map[string]string, error)) ([]map[string]string, error) {
	ctx, cancel := WithTimeout(ctx, g.timeout)
	defer cancel()
	select {
	case g.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("%d queries are running already: %w", cap(g.slots), context.Cause(ctx))
	}
	var rows []map[string]string
	var err error
	done := make(chan struct{})
	go func() {
		defer func() { <-g.slots }()
		defer close(done)
		rows, err = recovered(ctx, generate)
	}()
	select {
	case <-done:
		if err == nil || ctx.Err() == nil {
			return rows, err
		}
	case <-ctx.Done():
	}
	return nil, context.Cause(ctx)
}

var errPanic = errors.New("internal error, please report it")

func recovered(ctx context.Context, generate func(context.Context) ([]map[string]string, error)) (rows []map[string]string, err error) {
	defer func() {
		if reason := recover(); reason != nil {
			// osquery shows one line, which has no room for the stack.
			slog.ErrorContext(ctx, "a table panicked", "panic", reason, "stack", string(debug.Stack()))
			rows, err = nil, fmt.Errorf("%w: %v", errPanic, reason)
		}
	}()
	return generate(ctx)
}

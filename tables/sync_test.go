package tables

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

// A slowRecorder waits for a source that does not answer.
type slowRecorder struct{}

func (r *slowRecorder) Sync(ctx context.Context) error {
	<-ctx.Done()
	return fmt.Errorf("%w: %w", kmodquery.ErrNotStored, ctx.Err())
}

func (r *slowRecorder) Sensors(ctx context.Context) []kmodquery.Sensor {
	<-ctx.Done()
	return []kmodquery.Sensor{{Source: kmodquery.SourceEBPF, State: kmodquery.StateFailed}}
}

func TestStoredEventsAnswerAQueryIfASourceHangs(t *testing.T) {
	config := testConfig(t, kmodquery.Event{EventName: kmodquery.EventInitModule, Source: kmodquery.SourceEBPF, Time: 1, Name: "dummy"})
	require.NoError(t, config.Recorder.Sync(t.Context()))
	config.Recorder, config.Timeout = &slowRecorder{}, 2*time.Second
	plugins := Plugins(config)
	for i, want := range []int{1, 1, 0, -1, -1, 1} {
		if want < 0 {
			continue // the inventory and the autostart table do not read the store
		}
		began := time.Now()
		response := plugins[i].Call(t.Context(), map[string]string{"action": "generate", "context": "{}"})
		require.EqualValues(t, 0, response.Status.Code, response.Status.Message)
		require.Len(t, response.Response, want)
		require.GreaterOrEqual(t, time.Since(began), time.Second/2)
	}
}

// A countedRecorder counts its Syncs.
type countedRecorder struct {
	Recorder
	syncs int
	err   error
}

func (r *countedRecorder) Sync(ctx context.Context) error {
	r.syncs++
	return cmp.Or(r.err, r.Recorder.Sync(ctx))
}

func TestOneCallOfAStatementSyncs(t *testing.T) {
	c := testConfig(t)
	counted := &countedRecorder{Recorder: c.Recorder, err: errors.New("ring is stuck")}
	c.Recorder = counted
	plugin := pluginNamed(t, c, "kernel_module_events")
	first, second := WithStatement(t.Context()), WithStatement(t.Context())
	for _, step := range []struct {
		ctx   context.Context
		err   error
		syncs int
	}{
		{first, counted.err, 1}, // a Sync that failed is none
		{first, kmodquery.ErrNotStored, 2}, {first, nil, 2}, {first, nil, 2},
		{second, nil, 3}, {second, nil, 3},
		{t.Context(), nil, 4}, {t.Context(), nil, 5},
	} {
		counted.err = step.err
		plugin.Call(step.ctx, map[string]string{"action": "generate", "context": "{}"})
		require.Equal(t, step.syncs, counted.syncs)
	}
	c.CursorsSync = true
	plugin = pluginNamed(t, c, "kernel_module_events")
	query := contextJSON(t, nil, constraint{"cursor", "ship", equals})
	require.Zero(t, plugin.Call(t.Context(), map[string]string{"action": "generate", "context": query}).Status.Code)
	require.Equal(t, 5, counted.syncs)
}

func TestSyncContextLeavesHalfOfTheTime(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	half, cancelHalf := SyncContext(ctx)
	defer cancelHalf()
	deadline, _ := half.Deadline()
	require.InDelta(t, 30*time.Minute, time.Until(deadline), float64(time.Minute))
	unlimited, cancelUnlimited := SyncContext(t.Context())
	defer cancelUnlimited()
	_, ok := unlimited.Deadline()
	require.False(t, ok)
}

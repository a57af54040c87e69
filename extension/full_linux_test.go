package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	osquery "github.com/osquery/osquery-go"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/collectors"
	"github.com/kmodquery/kmodquery/tables"
	"github.com/kmodquery/kmodquery/tables/sqlite"
	"github.com/kmodquery/kmodquery/test/race"
)

// patience is long enough for a host that is busy with other work.
const patience = 5 * time.Minute

// A storm is a source that emits events as fast as the recorder takes them.
type storm struct{ events int }

func (s *storm) Name() string { return kmodquery.SourceEBPF }

func (s *storm) Run(ctx context.Context, ready func(), emit func(kmodquery.Delivery)) error {
	ready()
	for i := range s.events {
		emit(kmodquery.Delivery{Event: kmodquery.Event{
			Time: time.Now().Unix(), EventName: kmodquery.EventModuleLoad, Source: kmodquery.SourceEBPF,
			Name: fmt.Sprintf("m%d", i), LoadID: fmt.Sprintf("boot-%d", i), Path: "/lib/modules/x.ko", Cmdline: strings.Repeat("long ", 50),
		}})
	}
	<-ctx.Done()
	return nil
}

func (s *storm) Sync(context.Context) error { return nil }

func (s *storm) LastRound() time.Time { return time.Time{} }

func (s *storm) Sensor() kmodquery.Sensor {
	return kmodquery.Sensor{Source: kmodquery.SourceEBPF, State: kmodquery.StateActive}
}

// While the disk is far too small for the events, the tables answer and report that the
// disk is full. When the disk has space again, every event is stored once.
func TestAStormOnASmallDiskLosesNoEvent(t *testing.T) {
	mount := t.TempDir()
	if err := unix.Mount("kmodquery", mount, "tmpfs", 0, "size=2m,mode=0700"); err != nil {
		if os.Getenv("CI") != "" {
			require.NoError(t, err, "mount a tmpfs")
		}
		t.Skipf("needs the right to mount a tmpfs: %v", err)
	}
	t.Cleanup(func() { require.NoError(t, unix.Unmount(mount, unix.MNT_DETACH)) })
	var mu sync.Mutex
	var reports []string
	report := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		reports = append(reports, err.Error())
	}
	store, err := sqlite.Open(t.Context(), filepath.Join(mount, "state"), sqlite.Options{MaxEvents: 1_000_000, Report: report})
	require.NoError(t, err)
	n := race.Scale(20_000)
	recorder := collectors.NewRecorder(store, report, collectors.Options{Sources: []collectors.Source{&storm{n}}, SideBySide: true})
	plugins := tables.Plugins(tables.Config{Store: store, Cursors: store, Recorder: recorder, Timeout: patience})
	recorder.Start(t.Context())

	var waiting, dropped int
	var row map[string]string
	require.Eventually(t, func() bool {
		row = generate(t, plugins, "kernel_module_sensors")[0]
		_, rest, ok := strings.Cut(row["store_reason"], "; make room on the file system of "+filepath.Join(mount, "state")+"; ")
		if !ok {
			return false
		}
		_, err := fmt.Sscanf(rest, "%d events wait in memory, %d were dropped", &waiting, &dropped)
		return err == nil && waiting > n/2
	}, patience, 100*time.Millisecond, "%v", &row)
	require.Equal(t, "active", row["state"])
	require.Contains(t, row["store_reason"], "store: disk full; make room")
	require.NotEqual(t, "0", row["store_errors"])
	require.Zero(t, dropped)
	stored := len(generate(t, plugins, "kernel_module_events"))
	t.Logf("%d events are stored, and %d of %d wait", stored, waiting, n)
	require.Positive(t, stored)
	require.Less(t, stored, n)

	require.NoError(t, unix.Mount("kmodquery", mount, "tmpfs", unix.MS_REMOUNT, "size=256m"))
	// Reading all events repeatedly would slow down the writes, so the sensors are read.
	require.Eventually(t, func() bool {
		row = generate(t, plugins, "kernel_module_sensors")[0]
		_, isWaiting := row["store_reason"]
		return !isWaiting
	}, patience, 100*time.Millisecond, "%v", &row)
	rows := generate(t, plugins, "kernel_module_events")
	require.Len(t, rows, n)
	for i, row := range rows {
		require.Equal(t, fmt.Sprintf("m%d", n-1-i), row["name"])
	}
	require.Equal(t, "0", row["shed"])
	require.NoError(t, recorder.Close())
	require.NoError(t, store.Close())
	require.Len(t, reports, 2, "the full disk and its end are reported once each")
	require.Contains(t, reports[0], "disk full")
	require.Contains(t, reports[1], "the store takes events again")
}

// generate returns all rows of one of the tables.
func generate(t *testing.T, plugins []osquery.OsqueryPlugin, table string) []map[string]string {
	t.Helper()
	for _, plugin := range plugins {
		if plugin.Name() == table {
			response := plugin.Call(context.Background(), map[string]string{"action": "generate", "context": "{}"})
			require.EqualValues(t, 0, response.Status.Code, response.Status.Message)
			return response.Response
		}
	}
	t.Fatalf("there is no table %s", table)
	return nil
}

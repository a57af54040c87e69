//go:build linux

package klog

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/linux/host"
	"github.com/kmodquery/kmodquery/test/leak"
)

// A fakeJournal is a script in journalctl's place. With --lines=1 it prints the file
// end. Otherwise it runs the commands of follow.
type fakeJournal struct {
	t      *testing.T
	dir    string
	source *Journal

	mu     sync.Mutex
	events []kmodquery.Delivery
	cancel context.CancelFunc
	ended  chan error
}

func newFakeJournal(t *testing.T, follow string) *fakeJournal {
	leak.Check(t)
	j := &fakeJournal{t: t, dir: t.TempDir()}
	script := filepath.Join(j.dir, "journalctl")
	require.NoError(t, os.WriteFile(script, []byte("#!/bin/sh\ncd "+j.dir+"\n"+`
case "$*" in
*--lines=1*) [ ! -e stderr ] || cat stderr >&2; [ ! -e end ] || cat end; exit;;
esac
echo "$*" >>arguments
echo $$ >pid
`+follow+"\n"), 0o700))
	j.write("end", j.entry(2))
	j.renew()
	return j
}

// renew makes a source that has not run, as another process has. Its timeouts do not
// depend on how busy the machine is.
func (j *fakeJournal) renew() {
	j.source = NewJournal(func(context.Context) (string, error) {
		position, err := os.ReadFile(filepath.Join(j.dir, "position"))
		if os.IsNotExist(err) {
			err = nil
		}
		return string(position), err
	})
	j.source.program = filepath.Join(j.dir, "journalctl")
	j.source.timeouts = journalTimeouts{end: time.Minute, sync: time.Minute, backfill: time.Minute}
}

func (j *fakeJournal) write(name, text string) {
	j.t.Helper()
	path := filepath.Join(j.dir, name)
	require.NoError(j.t, os.WriteFile(path+".new", []byte(text), 0o600))
	require.NoError(j.t, os.Rename(path+".new", path))
}

func (j *fakeJournal) read(name string) string {
	j.t.Helper()
	text, err := os.ReadFile(filepath.Join(j.dir, name))
	require.NoError(j.t, err)
	return string(text)
}

// entry returns the nth entry of the journal: a load of the module mN. The entries are
// ten seconds apart, so that none is held until the next.
func (j *fakeJournal) entry(n int) string {
	micros := strconv.Itoa(n * 10_000_000)
	return string(entryWith(j.t, map[string]any{
		"MESSAGE": fmt.Sprintf("m%d: module loaded", n), "__CURSOR": fmt.Sprintf("c%d", n), "_BOOT_ID": presentBoot(j.t),
		"__MONOTONIC_TIMESTAMP": micros, "_SOURCE_MONOTONIC_TIMESTAMP": micros, "__REALTIME_TIMESTAMP": "1795530100000000",
	})) + "\n"
}

// presentBoot returns the id of this boot as the journal has it.
func presentBoot(t testing.TB) string {
	boot, err := host.BootID()
	require.NoError(t, err)
	return strings.ReplaceAll(boot, "-", "")
}

func (j *fakeJournal) entries(from, to int) string {
	var b strings.Builder
	for n := from; n <= to; n++ {
		b.WriteString(j.entry(n))
	}
	return b.String()
}

// start runs the source until it is ready, or has ended.
func (j *fakeJournal) start() error {
	ctx, cancel := context.WithCancel(context.Background())
	j.cancel, j.ended = cancel, make(chan error, 1)
	ready := make(chan struct{})
	go func() {
		j.ended <- j.source.Run(ctx, func() { close(ready) }, func(d kmodquery.Delivery) {
			j.mu.Lock()
			defer j.mu.Unlock()
			j.events = append(j.events, d)
		})
	}()
	select {
	case <-ready:
		j.t.Cleanup(cancel)
		return nil
	case err := <-j.ended:
		cancel()
		return err
	}
}

func (j *fakeJournal) stop() {
	j.t.Helper()
	j.cancel()
	require.NoError(j.t, <-j.ended)
}

func (j *fakeJournal) seen() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	var names []string
	for _, e := range j.events {
		names = append(names, e.Event.Name)
	}
	j.events = nil
	return names
}

func TestJournalIsReadToItsEndBeforeReady(t *testing.T) {
	j := newFakeJournal(t, "cat entries; sleep 0.1; cat end; exec sleep 100")
	j.write("entries", j.entries(0, 1))
	require.NoError(t, j.start())
	require.Equal(t, []string{"m0", "m1", "m2"}, j.seen())
	require.Contains(t, j.read("arguments"), "--follow --no-tail --boot --output-fields=MESSAGE,")
	require.Contains(t, j.read("arguments"), "_TRANSPORT=kernel + _SYSTEMD_UNIT=systemd-modules-load.service _UID=0 +")
	sensor := j.source.Sensor()
	require.Equal(t, kmodquery.StateActive, sensor.State)
	require.EqualValues(t, 3, sensor.Received)
	require.Contains(t, sensor.Hooks, `["_TRANSPORT=kernel (journalctl)","_SYSTEMD_UNIT=systemd-modules-load.service _UID=0 (journalctl)",`)

	pid, err := strconv.Atoi(strings.TrimSpace(j.read("pid")))
	require.NoError(t, err)
	j.stop()
	require.ErrorIs(t, unix.Kill(pid, 0), unix.ESRCH, "journalctl ends with the source")
	require.Equal(t, kmodquery.StateStandby, j.source.Sensor().State)
}

func TestJournalSyncWaitsForTheJournalsEnd(t *testing.T) {
	j := newFakeJournal(t, "cat end; while :; do [ ! -e more ] || { sleep 0.1; cat more; rm more; }; sleep 0.02; done")
	require.NoError(t, j.start())
	require.Equal(t, []string{"m2"}, j.seen())
	require.NoError(t, j.source.Sync(t.Context()))
	j.write("end", j.entry(3))
	j.write("more", j.entry(3))
	require.NoError(t, j.source.Sync(t.Context()))
	require.Equal(t, []string{"m3"}, j.seen())

	j.write("end", j.entry(9))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, j.source.Sync(ctx), context.DeadlineExceeded)
	j.stop()
}

// A host keeps the journal of an earlier boot although its journald does not run.
func TestAJournalOfAnotherBootIsNotWaitedFor(t *testing.T) {
	j := newFakeJournal(t, "exec sleep 100")
	j.write("end", string(entryWith(t, nil))+"\n")
	j.source.timeouts.backfill, j.source.timeouts.sync = time.Hour, time.Hour
	require.NoError(t, j.start())
	require.NoError(t, j.source.Sync(t.Context()))
	j.stop()
}

func TestJournalSyncHasATimeout(t *testing.T) {
	j := newFakeJournal(t, "cat end; exec sleep 100")
	j.source.timeouts.sync = 50 * time.Millisecond
	require.NoError(t, j.start())
	j.write("end", j.entry(9)) // journalctl does not print it
	began := time.Now()
	require.NoError(t, j.source.Sync(t.Context()))
	require.GreaterOrEqual(t, time.Since(began), j.source.timeouts.sync)
	j.stop()
}

func TestJournalContinuesAfterItsPosition(t *testing.T) {
	j := newFakeJournal(t, "cat entries; exec sleep 100")
	j.write("entries", j.entries(0, 2))
	require.NoError(t, j.start())
	j.mu.Lock()
	position := j.events[1].Position
	j.mu.Unlock()
	j.stop()
	require.Equal(t, []string{"m0", "m1", "m2"}, j.seen())

	// Another process continues at the stored position.
	j.renew()
	j.write("position", position)
	require.NoError(t, j.start())
	require.Equal(t, []string{"m2"}, j.seen())
	require.Contains(t, j.read("arguments"), "--cursor=c1")
	require.Empty(t, j.source.Sensor().Reason)
	j.stop()

	// The entry is gone, and so is the one before.
	j.renew()
	j.write("entries", j.entries(2, 2))
	require.NoError(t, j.start())
	require.Equal(t, []string{"m2"}, j.seen())
	require.Contains(t, j.source.Sensor().Reason, "the journal may have dropped entries")
	j.stop()

	// The same process continues after the events that it emitted.
	require.NoError(t, j.start())
	require.Empty(t, j.seen())
	j.stop()
}

// rejecting is a journalctl that has no cursor, and prints no entry from before --since.
const rejecting = `case "$*" in
*--cursor*) echo "Failed to seek to cursor: Invalid argument" >&2; exit 1;;
*--since=@41*) ;;
*) cat entries;;
esac; exec sleep 100`

func TestJournalStartsByTimeIfTheCursorIsRejected(t *testing.T) {
	j := newFakeJournal(t, rejecting)
	j.write("entries", j.entries(0, 2))
	j.write("position", testBoot+" 10000000 1795530100000000 c1")
	require.ErrorContains(t, j.start(), "Failed to seek to cursor: Invalid argument")
	require.Equal(t, kmodquery.StateFailed, j.source.Sensor().State)
	require.NoError(t, j.start())
	require.Equal(t, []string{"m0", "m1", "m2"}, j.seen())
	require.Contains(t, j.read("arguments"), "--since=@1795530100 ")
	j.stop()
}

// The clock was ahead when the entry of the position was written, and was set back.
func TestJournalIsReadIfItsPositionIsInTheFuture(t *testing.T) {
	for boot, want := range map[string][]string{presentBoot(t): {"m2"}, testBoot: {"m0", "m1", "m2"}} {
		j := newFakeJournal(t, rejecting)
		now := strconv.FormatInt(time.Now().UnixMicro(), 10)
		entries := strings.ReplaceAll(j.entries(0, 2), "1795530100000000", now)
		j.write("entries", entries)
		j.write("end", strings.SplitAfter(entries, "\n")[2])
		j.write("position", boot+" 10000000 4102444800000000 c1")
		require.ErrorContains(t, j.start(), "Failed to seek to cursor: Invalid argument")
		j.source.timeouts.backfill = time.Second
		require.NoError(t, j.start())
		require.Equal(t, want, j.seen())
		j.stop()
	}
}

func TestRunFailsIfJournalctlExits(t *testing.T) {
	j := newFakeJournal(t, "cat end; echo 'Failed to open journal: Bad message' >&2; exit 3")
	err := j.start()
	if err == nil { // it was ready before it ended
		err = <-j.ended
	}
	require.ErrorContains(t, err, "exited unexpectedly: exit status 3: Failed to open journal: Bad message")
	require.NotErrorIs(t, err, kmodquery.ErrNotSupported)
	require.Equal(t, kmodquery.StateFailed, j.source.Sensor().State)

	j = newFakeJournal(t, "cat end")
	if err = j.start(); err == nil {
		err = <-j.ended
	}
	require.ErrorContains(t, err, "exited unexpectedly: exit status 0")
}

func TestJournalIsUnavailableWithoutJournalctl(t *testing.T) {
	s := NewJournal(nil)
	s.program = filepath.Join(t.TempDir(), "journalctl")
	err := s.Run(t.Context(), func() {}, func(kmodquery.Delivery) {})
	require.ErrorIs(t, err, kmodquery.ErrNotSupported)
	require.ErrorContains(t, err, "needs systemd")
	require.Equal(t, kmodquery.StateUnavailable, s.Sensor().State)

	j := newFakeJournal(t, "exit 1")
	require.NoError(t, os.Remove(filepath.Join(j.dir, "end")))
	j.write("stderr", "Hint: You are currently not seeing messages from other users and the system.\n")
	err = j.start()
	require.ErrorIs(t, err, kmodquery.ErrNotSupported)
	require.ErrorContains(t, err, "Hint: You are currently not seeing messages")
	require.NotContains(t, err.Error(), "\n")
}

func TestJournalLinesAreBounded(t *testing.T) {
	j := newFakeJournal(t, "head -c 3000000 /dev/zero; echo; echo '{'; cat end; exec sleep 100")
	require.NoError(t, j.start())
	require.Equal(t, []string{"m2"}, j.seen())
	require.EqualValues(t, 2, j.source.Sensor().DecodeErrors)
	j.stop()
}

func TestJournalBackfillStartsAtItsBound(t *testing.T) {
	j := newFakeJournal(t, "cat end; exec sleep 100")
	j.source.Backfill(time.UnixMicro(1795530100000001), time.Time{})
	require.NoError(t, j.start())
	require.Empty(t, j.seen())
	j.stop()
}

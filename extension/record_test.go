package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

// A serviceManager stands for the receiver of sd_notify(3)'s messages.
type serviceManager struct {
	t    *testing.T
	conn *net.UnixConn
}

// manage makes this process a service with a watchdog's time; 0 for none.
func manage(t *testing.T, address string, watchdog time.Duration) *serviceManager {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", address)
	if watchdog > 0 {
		t.Setenv("WATCHDOG_USEC", strconv.FormatInt(watchdog.Microseconds(), 10))
		t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	}
	return &serviceManager{t, conn}
}

// next returns the next message, or "" if none comes within the time.
func (m *serviceManager) next(within time.Duration) string {
	m.t.Helper()
	require.NoError(m.t, m.conn.SetReadDeadline(time.Now().Add(within)))
	message := make([]byte, 64<<10)
	n, err := m.conn.Read(message)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return ""
	}
	require.NoError(m.t, err)
	return string(message[:n])
}

// until returns the messages up to the first one with the prefix.
func (m *serviceManager) until(prefix string) (messages []string) {
	m.t.Helper()
	for {
		message := m.next(time.Minute)
		require.NotEmpty(m.t, message, "no %s after %q", prefix, messages)
		messages = append(messages, message)
		if strings.HasPrefix(message, prefix) {
			return messages
		}
	}
}

func quietNotifier(t *testing.T) *notifier {
	t.Helper()
	n, err := newNotifier(hostPlatform(), log.New(io.Discard, "", 0))
	require.NoError(t, err)
	return n
}

type fakeRecording struct {
	sync    func(ctx context.Context) error
	sensors []kmodquery.Sensor
}

func (r *fakeRecording) Sync(ctx context.Context) error             { return r.sync(ctx) }
func (r *fakeRecording) Sensors(context.Context) []kmodquery.Sensor { return r.sensors }

func TestRecordNotifiesTheServiceManager(t *testing.T) {
	addresses := map[string]string{"path": filepath.Join(t.TempDir(), "notify")}
	if runtime.GOOS == "linux" {
		addresses["abstract"] = fmt.Sprintf("@kmodquery-test-%d", os.Getpid())
	}
	for name, address := range addresses {
		t.Run(name, func(t *testing.T) {
			m := manage(t, address, 4*time.Second)
			c, err := parse(hostPlatform(), []string{"record", "--state-dir", t.TempDir(), "--interval", "1"})
			require.NoError(t, err)
			stop, ended := inBackground(t, func(ctx context.Context) error { return record(ctx, c, log.New(io.Discard, "", 0)) })
			messages := m.until("READY=1")
			require.Len(t, messages, 2)
			require.Regexp(t, `^STATUS=recording: `, messages[0])
			m.until("WATCHDOG=1")

			// A second recorder is ready while it waits, and takes over.
			waiter := manage(t, address+"2", 4*time.Second)
			stopWaiter, waiterEnded := inBackground(t, func(ctx context.Context) error { return record(ctx, c, log.New(io.Discard, "", 0)) })
			require.Equal(t, []string{"STATUS=waiting: another process records", "READY=1"}, waiter.until("READY=1"))
			waiter.until("WATCHDOG=1")
			stop()
			require.NoError(t, <-ended)
			waiter.until("STATUS=recording: ")
			waiter.until("WATCHDOG=1")
			stopWaiter()
			require.NoError(t, <-waiterEnded)
			waiter.until("STOPPING=1")
			require.Empty(t, waiter.next(100*time.Millisecond))
		})
	}
}

func TestServiceIsReadyWhenItsSourcesWatch(t *testing.T) {
	m := manage(t, filepath.Join(t.TempDir(), "notify"), 0)
	s := newSlowSource()
	c := slowSettings(t, startHost(t), s)
	stop, ended := inBackground(t, func(ctx context.Context) error { return record(ctx, c, discard()) })
	awaitClosed(t, s.began)
	require.Empty(t, m.next(100*time.Millisecond))
	close(s.release)
	require.Equal(t, []string{"STATUS=recording: ebpf is active", "READY=1"}, m.until("READY=1"))
	stop()
	require.NoError(t, <-ended)
}

func TestWatchdogIsNotifiedWhileTheRecorderAnswers(t *testing.T) {
	m := manage(t, filepath.Join(t.TempDir(), "notify"), 400*time.Millisecond)
	answer := make(chan error)
	r := &fakeRecording{sync: func(ctx context.Context) error {
		select {
		case err := <-answer:
			return err
		case <-ctx.Done():
			return fmt.Errorf("wait for events to be stored: %w", ctx.Err())
		}
	}}
	n := quietNotifier(t)
	_, _ = inBackground(t, func(ctx context.Context) error { notifyLoop(ctx, n, r); return nil })
	require.Equal(t, []string{"STATUS=recording: no source is active", "READY=1"}, m.until("READY=1"))

	answer <- nil
	require.Equal(t, "WATCHDOG=1", m.next(time.Minute))
	answer <- errors.New("write events: no space left on device")
	require.Equal(t, "WATCHDOG=1", m.next(time.Minute), "an error other than a timeout is an answer")
	require.Empty(t, m.next(time.Second), "the recorder hangs")
	answer <- nil
	require.Equal(t, "WATCHDOG=1", m.next(time.Minute))
}

// The recorder ignores its context.
func TestWatchdogOfARecorderThatHangs(t *testing.T) {
	m := manage(t, filepath.Join(t.TempDir(), "notify"), 100*time.Millisecond)
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	var asked atomic.Int64
	r := &fakeRecording{sync: func(context.Context) error {
		asked.Add(1)
		<-hang
		return nil
	}}
	n := quietNotifier(t)
	stop, ended := inBackground(t, func(ctx context.Context) error { notifyLoop(ctx, n, r); return nil })
	m.until("READY=1")
	require.Empty(t, m.next(500*time.Millisecond))
	stop()
	<-ended
	require.EqualValues(t, 1, asked.Load(), "there is one Sync at a time")
}

// The watchdog's time is long enough for two messages. A late answer to one probe must not
// make the next one fail.
func TestALateAnswerDoesNotFailTheNextProbe(t *testing.T) {
	var isQuick atomic.Bool
	p := probe{recording: &fakeRecording{sync: func(ctx context.Context) error {
		if !isQuick.Load() {
			<-ctx.Done()
			return fmt.Errorf("wait for events to be stored: %w", ctx.Err())
		}
		return nil
	}}}
	require.False(t, p.answers(t.Context(), time.Millisecond))
	require.Eventually(t, func() bool { return p.asked == nil || len(p.asked) == 1 }, time.Minute, time.Millisecond)
	isQuick.Store(true)
	require.True(t, p.answers(t.Context(), time.Minute))
}

func TestNoWatchdogMessagesUnlessTheManagerExpectsThem(t *testing.T) {
	for name, value := range map[string]string{"WATCHDOG_USEC": "", "WATCHDOG_PID": "1"} {
		m := manage(t, filepath.Join(t.TempDir(), "notify"), 100*time.Millisecond)
		t.Setenv(name, value)
		r := &fakeRecording{sync: func(context.Context) error { t.Error("asked"); return nil }}
		n := quietNotifier(t)
		stop, ended := inBackground(t, func(ctx context.Context) error { notifyLoop(ctx, n, r); return nil })
		m.until("READY=1")
		require.Empty(t, m.next(300*time.Millisecond), name)
		stop()
		<-ended
	}
	t.Setenv("WATCHDOG_PID", "")
	t.Setenv("WATCHDOG_USEC", "soon")
	require.ErrorContains(t, record(t.Context(), &config{platform: hostPlatform()}, log.New(io.Discard, "", 0)), "read the service manager's watchdog time: ")
}

// The opening of a large store gives signs of life while it makes progress.
func TestSignsOfLifeFollowFromProgress(t *testing.T) {
	if hostPlatform().threadTime == nil {
		t.Skip("there is no service manager")
	}
	m := manage(t, filepath.Join(t.TempDir(), "notify"), time.Minute)
	n := quietNotifier(t)
	n.every = 20 * time.Millisecond
	var waited, busy []string
	require.EqualError(t, n.during(func() error {
		waited = append(waited, m.next(500*time.Millisecond)) // as a disk that does not answer
		var isSigned atomic.Bool
		go func() {
			busy = append(busy, m.next(time.Minute))
			isSigned.Store(true)
		}()
		for !isSigned.Load() {
		}
		return errors.New("failed")
	}), "failed")
	require.Equal(t, []string{""}, waited)
	require.Equal(t, []string{"EXTEND_TIMEOUT_USEC=60000000\nWATCHDOG=1"}, busy)
	for m.next(100*time.Millisecond) != "" { // a sign that was due when it ended
	}
	require.Empty(t, m.next(200*time.Millisecond), "it has ended")
}

// A new recorder gives signs of life while it opens the store, and while it reads the events
// of this boot.
func TestOpeningAndReplayGiveSignsOfLife(t *testing.T) {
	var clocks atomic.Int64
	c := slowSettings(t, startHost(t), newSlowSource())
	c.platform.threadTime = func() func() time.Duration {
		clocks.Add(1)
		return func() time.Duration { return 0 }
	}
	stop, ended := inBackground(t, func(ctx context.Context) error { return record(ctx, c, discard()) })
	require.Eventually(t, func() bool { return clocks.Load() == 2 }, time.Minute, time.Millisecond)
	stop()
	require.NoError(t, <-ended)
}

func TestMemoryLimit(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	t.Cleanup(func() { debug.SetMemoryLimit(before) })
	limitMemory(0)
	require.Equal(t, before, debug.SetMemoryLimit(-1))
	t.Setenv("GOMEMLIMIT", "1GiB")
	limitMemory(512 << 20)
	require.Equal(t, before, debug.SetMemoryLimit(-1), "the user has set it")
	require.NoError(t, os.Unsetenv("GOMEMLIMIT"))
	limitMemory(512 << 20)
	require.EqualValues(t, 384<<20, debug.SetMemoryLimit(-1))
}

func TestStatusIsOneLine(t *testing.T) {
	m := manage(t, filepath.Join(t.TempDir(), "notify"), 0)
	n := quietNotifier(t)
	for range 2 {
		n.sendStatus("recording: " + summary([]kmodquery.Sensor{
			{Source: "ebpf", State: kmodquery.StateFailed, Reason: "a module is called\nMAINPID=1\r\nREADY=1 \x1b[2J\xff"},
			{Source: "audit", State: kmodquery.StateActive, Reason: "ebpf failed"},
			{Source: "kmsg", State: kmodquery.StateStandby},
			{Source: "journal", State: kmodquery.StateUnavailable, Reason: "there is no journal"},
		}))
	}
	require.Equal(t, "STATUS=recording: audit is active, ebpf failed (a module is called MAINPID=1 READY=1 \\x1b[2J\\xff), kmsg standby, journal unavailable", m.next(time.Minute))
	require.Empty(t, m.next(100*time.Millisecond), "the same status is not sent twice")
}

// The failure to reach the manager is reported in one line.
func TestNotifierReportsOnce(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "gone"))
	var report strings.Builder
	n, err := newNotifier(hostPlatform(), log.New(&report, "", 0))
	require.NoError(t, err)
	n.send(daemon.SdNotifyReady)
	n.send(daemon.SdNotifyStopping)
	require.Equal(t, 1, strings.Count(report.String(), "\n"))
	require.Contains(t, report.String(), "notify the service manager: ")
}

//go:build linux

package klog

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/linux/host"
)

// A fakeKmsg is a log of the kernel's that the test writes.
type fakeKmsg struct {
	t        *testing.T
	records  []string
	sequence int
	writers  []int
}

// open opens the log at its first record.
func (k *fakeKmsg) open(string) (*kmsgLog, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	require.NoError(k.t, err)
	k.t.Cleanup(func() { unix.Close(fds[1]) })
	k.writers = append(k.writers, fds[1])
	for _, record := range k.records {
		k.send(fds[1], record)
	}
	return newKmsgLog(fds[0])
}

func (k *fakeKmsg) send(fd int, record string) {
	_, err := unix.Write(fd, []byte(record))
	if !errors.Is(err, unix.EPIPE) { // the Run that read it has ended
		require.NoError(k.t, err)
	}
}

// log logs a message of the kernel's and returns its line in a syslog daemon's file,
// with its time if the daemon writes that.
func (k *fakeKmsg) log(text string, withTime bool) string {
	k.sequence++
	at := fmt.Sprintf("%d.%06d", 10*k.sequence, k.sequence)
	k.record(fmt.Sprintf("4,%d,%s,-;%s\n", k.sequence, strings.Replace(at, ".", "", 1), text))
	if withTime {
		text = "[ " + at + "] " + text
	}
	return "Nov 24 14:18:44 guest kernel: " + text + "\n"
}

func (k *fakeKmsg) record(record string) {
	k.records = append(k.records, record)
	for _, fd := range k.writers {
		k.send(fd, record)
	}
}

// A syslogRun is a Run of the source on files with a fake log of the kernel's.
type syslogRun struct {
	*Syslog
	t      *testing.T
	events []kmodquery.Delivery
	stop   func()
}

// runSyslog starts a Run, which is ready when it returns.
func runSyslog(t *testing.T, kmsg *fakeKmsg, position string, files ...string) *syslogRun {
	t.Helper()
	r := &syslogRun{t: t}
	r.Syslog = NewSyslog(func(context.Context) (string, error) { return position, nil })
	r.files = files
	r.open = kmsg.open
	ctx, cancel := context.WithCancel(t.Context())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- r.Run(ctx, func() { close(ready) }, func(d kmodquery.Delivery) { r.events = append(r.events, d) })
	}()
	select {
	case <-ready:
	case err := <-ended:
		require.NoError(t, err)
	}
	r.stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	t.Cleanup(r.stop)
	return r
}

// names returns the modules of the events since the last call, after a Sync.
func (r *syslogRun) names() []string {
	require.NoError(r.t, r.Sync(r.t.Context()))
	var names []string
	for _, d := range r.events {
		names = append(names, d.Event.Name)
	}
	r.events = nil
	return names
}

func TestOnlyLinesThatTheKernelLoggedAreUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, kmsg := newLogWriter(t), &fakeKmsg{t: t}
		r := runSyslog(t, kmsg, "", w.path)
		w.text("Nov 24 14:18:44 guest kernel: forged: module loaded\n")
		w.text("Nov 24 14:18:44 guest kernel: [   99.000099] a: module loaded\n")
		kmsg.sequence++
		kmsg.record("12,1,99000099,-;a: module loaded\n") // written by user space
		require.Empty(t, r.names())
		require.EqualValues(t, 2, r.Sensor().DecodeErrors)

		line := kmsg.log("a: module loaded", true)
		w.text(line)
		require.Equal(t, []string{"a"}, r.names())
		require.Equal(t, kmodquery.SourceSyslog, r.Name())
		w.text(line)
		require.Empty(t, r.names())
		require.EqualValues(t, 2, r.Sensor().DecodeErrors, "a repeated line is not forged")
		require.EqualValues(t, 4, r.Sensor().Received)
	})
}

func TestLinesWithoutATimeMatchTheOldestMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second, kmsg := newLogWriter(t), newLogWriter(t), &fakeKmsg{t: t}
		r := runSyslog(t, kmsg, "", first.path, second.path)
		boot, err := host.BootID()
		require.NoError(t, err)
		for sequence := range 3 {
			line := kmsg.log("a: module loaded", false)
			first.text(line)
			require.NoError(t, r.Sync(t.Context()))
			second.text(line)
			require.NoError(t, r.Sync(t.Context()))
			require.Len(t, r.events, sequence+1, "a message is emitted once, however many files have it")
			require.Equal(t, sequencePosition(boot, uint64(sequence+1)), r.events[sequence].Position)
		}
		first.text(kmsg.log("a: module loaded", false) + kmsg.log("a: module loaded", false))
		require.Equal(t, []string{"a", "a", "a", "a", "a"}, r.names())
	})
}

func TestARepeatedMessageStandsForItsCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, kmsg := newLogWriter(t), &fakeKmsg{t: t}
		r := runSyslog(t, kmsg, "", w.path)
		first := kmsg.log("a: module loaded", false)
		kmsg.log("a: module loaded", false)
		kmsg.log("a: module loaded", false)
		w.text(first + "Nov 24 14:18:44 guest kernel: message repeated 2 times: [ a: module loaded]\n")
		require.Equal(t, []string{"a", "a", "a"}, r.names())
		require.Zero(t, r.Sensor().DecodeErrors)
	})
}

// The files are rotated and the source is restarted with the position of its last
// event, in every order.
func TestMessagesAreEmittedOnceAcrossRotationsAndRestarts(t *testing.T) {
	for name, rotate := range map[string]func(w *logWriter){
		"none":       func(*logWriter) {},
		"renamed":    func(w *logWriter) { w.rename(); w.reopen() },
		"truncated":  (*logWriter).copyAndTruncate,
		"compressed": func(w *logWriter) { w.compress(w.rename()); w.reopen() },
	} {
		for _, withTime := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, with time %v", name, withTime), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w, kmsg := newLogWriter(t), &fakeKmsg{t: t}
					position, n := "", 0
					load := func() string {
						n++
						w.text(kmsg.log(fmt.Sprintf("m%d: module loaded", n), withTime))
						w.text(kmsg.log("again: module loaded", withTime))
						return fmt.Sprintf("m%d", n)
					}
					for range 3 {
						want := []string{load(), "again"} // while it does not run
						rotate(w)
						want = append(want, load(), "again")
						r := runSyslog(t, kmsg, position, w.path)
						want = append(want, load(), "again")
						require.NoError(t, r.Sync(t.Context()))
						rotate(w)
						want = append(want, load(), "again")
						require.NoError(t, r.Sync(t.Context()))
						position = r.events[len(r.events)-1].Position
						require.Equal(t, want, r.names())
						require.Zero(t, r.Sensor().Lost)
						require.Zero(t, r.Sensor().DecodeErrors)
						r.stop()
					}
				})
			})
		}
	}
}

func TestPositionsOfEarlierVersionsAreContinued(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, kmsg := newLogWriter(t), &fakeKmsg{t: t}
		for _, name := range []string{"a", "b", "c"} {
			w.text(kmsg.log(name+": module loaded", true))
		}
		boot, err := host.BootID()
		require.NoError(t, err)
		require.Equal(t, []string{"c"}, runSyslog(t, kmsg, boot+" 2 77:0123456789abcdef0123456789abcdef 0: 0:", w.path).names())
		require.Equal(t, []string{"a", "b", "c"}, runSyslog(t, kmsg, "another 2", w.path).names())
	})
}

func TestSyslogSaysThatNoFileIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, kmsg := newLogWriter(t), &fakeKmsg{t: t}
		r := runSyslog(t, kmsg, "", w.path, w.path+"other")
		require.Empty(t, r.Sensor().Reason)
		require.NoError(t, os.Remove(w.path))
		require.NoError(t, r.Sync(t.Context()))
		require.Contains(t, r.Sensor().Reason, "none of the files can be read now")
		w.reopen()
		w.text(kmsg.log("a: module loaded", true))
		require.Equal(t, []string{"a"}, r.names())
		require.Empty(t, r.Sensor().Reason)
		require.Equal(t, kmodquery.StateActive, r.Sensor().State)
	})
}

func TestSyslogEndsWhileItReads(t *testing.T) {
	w, kmsg := newLogWriter(t), &fakeKmsg{t: t}
	const lines = 5_000_000
	w.text(strings.Repeat("x\n", lines))
	w.rename()
	w.reopen()
	s := NewSyslog(nil)
	s.files = []string{w.path}
	s.open = kmsg.open
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	require.NoError(t, s.Run(ctx, func() {}, func(kmodquery.Delivery) {}))
	require.Less(t, s.Sensor().Received, int64(lines))
}

func TestSyslogIsUnavailableWithoutFilesOrKmsg(t *testing.T) {
	dir := t.TempDir()
	s := NewSyslog(nil)
	s.files = []string{filepath.Join(dir, "syslog")}
	err := s.Run(t.Context(), func() {}, func(kmodquery.Delivery) {})
	require.ErrorIs(t, err, kmodquery.ErrNotSupported)
	require.ErrorContains(t, err, "a syslog daemon")

	require.NoError(t, os.WriteFile(filepath.Join(dir, "syslog"), nil, 0o600))
	s.kmsg = filepath.Join(dir, "kmsg")
	err = s.Run(t.Context(), func() {}, func(kmodquery.Delivery) {})
	require.ErrorIs(t, err, kmodquery.ErrNotSupported)
	require.ErrorContains(t, err, "every user can write such lines")
	require.Equal(t, kmodquery.StateUnavailable, s.Sensor().State)
}

func TestParseSyslogLine(t *testing.T) {
	const text = "brd: module loaded"
	at := 1234*time.Second + 567890*time.Microsecond
	for _, test := range []struct {
		line string
		want syslogLine
	}{
		{"2026-11-24T14:18:44.538393+00:00 guest kernel: brd: module loaded", syslogLine{text, -1, 1}},
		{"2026-11-24T14:18:44.538393+00:00 guest kernel: [ 1234.567890] brd: module loaded", syslogLine{text, at, 1}},
		{"Nov 24 14:18:44 guest kernel: [ 1234.567890] brd: module loaded", syslogLine{text, at, 1}},
		{"Nov  4 14:18:44 guest kernel: [    0.000000] brd: module loaded", syslogLine{text, 0, 1}},
		{"Nov  4 14:18:44 guest kernel: [12345.678901][  T123] brd: module loaded", syslogLine{text, 12345678901 * time.Microsecond, 1}},
		{"Nov 24 14:18:44 guest kern.info kernel: [ 1234.567890] brd: module loaded", syslogLine{text, at, 1}},
		{"<6>Nov 24 14:18:44 guest kernel: brd: module loaded", syslogLine{text, -1, 1}},
		{"<6>1 2026-11-24T14:18:44.538393+00:00 guest kernel - - - [ 1234.567890] brd: module loaded", syslogLine{text, at, 1}},
		{"Nov 24 14:18:44 guest kernel[0]: brd: module loaded", syslogLine{text, -1, 1}},
		{`2026-11-24T14:18:44.123456+00:00 guest kernel - - [meta sequenceId="5"] [ 1234.567890] brd: module loaded`, syslogLine{text, at, 1}},
		{`1 2026-11-24T14:18:44Z guest kernel - - [timeQuality tzKnown="1" isSynced="1"]  [ 1234.567890] brd: module loaded`, syslogLine{text, at, 1}},
		{"<6>1 2026-11-24T14:18:44Z guest kernel - - -  [ 1234.567890] brd: module loaded", syslogLine{text, at, 1}},
		{"Nov 24 14:18:44 guest kernel: <6>[ 1234.567890] brd: module loaded", syslogLine{text, at, 1}},
		{"Nov 24 14:18:44 guest kernel: [ 1234.567890] [T123] brd: module loaded", syslogLine{text, at, 1}},
		{"Nov 24 14:18:44 my kernel guest kernel: [ 1234.567890] brd: module loaded", syslogLine{text, at, 1}},
		{"kernel: [ 1234.567890] brd: module loaded", syslogLine{text, at, 1}},
		{"Nov 24 14:18:44 guest kernel: message repeated 2 times: [ brd: module loaded]", syslogLine{text, -1, 2}},
		// Only the comparison with the kernel's log shows that this is forged.
		{"Nov 24 14:18:44 guest user: x kernel: brd: module loaded", syslogLine{text, -1, 1}},
	} {
		got, ok := parseSyslogLine([]byte(test.line))
		require.True(t, ok, test.line)
		require.Equal(t, test.want, got, test.line)
	}
	for _, line := range []string{"", "xkernel: y", "Nov 24 14:18:44 guest user: brd: module loaded", "Nov 24 14:18:44 guest xkernel: y", strings.Repeat("x", 300) + " kernel: y"} {
		_, ok := parseSyslogLine([]byte(line))
		require.False(t, ok, line)
	}
}

func FuzzParseSyslogLine(f *testing.F) {
	f.Add([]byte("2026-11-24T14:18:44.538393+00:00 guest kernel: [ 1234.567890] brd: module loaded"))
	f.Add([]byte("<6>1 2026-11-24T14:18:44.538393+00:00 guest kernel - - - [12345.678901][  T123] x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, ok := parseSyslogLine(b)
		if !ok {
			require.Empty(t, l)
			return
		}
		require.LessOrEqual(t, len(l.text), len(b))
		require.GreaterOrEqual(t, l.at, time.Duration(-1))
	})
}

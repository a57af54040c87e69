//go:build linux

package klog

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/linux/klog/printk"
)

func TestOnlyLinesThatTheKernelLoggedAreUsed(t *testing.T) {
	message := func(sequence uint64, at time.Duration, text string) *ringMessage {
		says, ok := printk.Kernel(text)
		require.True(t, ok)
		return &ringMessage{record: printk.Record{Sequence: sequence, Time: at, Text: text}, says: says}
	}
	const a, b = "a: module loaded", "b: module loaded"
	r := ring{said: []*ringMessage{message(1, 10, a), message(2, 20, b), message(3, 30, a), message(4, 40, a)}}
	for _, test := range []struct {
		line    syslogLine
		want    uint64 // sequence number; 0 where the kernel did not say it
		isFirst bool
	}{
		{syslogLine{"forged: module loaded", -1}, 0, false},
		{syslogLine{a, 11}, 0, false},
		{syslogLine{a, 30}, 3, true},
		{syslogLine{a, 30}, 3, false},
		{syslogLine{a, -1}, 1, true},
		{syslogLine{a, -1}, 4, true},
		{syslogLine{a, -1}, 1, false}, // another file's
		{syslogLine{b, 20}, 2, true},
	} {
		said, isFirst := r.claim(test.line)
		require.Equal(t, test.want != 0, said != nil, "%+v", test.line)
		require.Equal(t, test.isFirst, isFirst, "%+v", test.line)
		if said != nil {
			require.Equal(t, test.want, said.record.Sequence, "%+v", test.line)
		}
	}
	require.EqualValues(t, 4, r.told)
}

func TestSyslogPosition(t *testing.T) {
	files := []string{filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b"), filepath.Join(t.TempDir(), "c")}
	s := NewSyslog(SyslogOptions{Files: files})
	r := syslogReader{source: s, boot: "03587839-fc52-4d26-91ea-d9c191ccb2b2"}
	r.resume("")
	r.ring.told, r.places[1] = 77, filePlace{1 << 40, hashTail(nil)}
	position := r.position()
	require.Less(t, len(position), 1024)

	again := syslogReader{source: s, boot: r.boot}
	again.resume(position)
	require.EqualValues(t, 77, again.ring.told)
	require.Equal(t, r.places, again.places)
	require.EqualValues(t, 1, s.Sensor().Lost, "the file is not there")

	for _, position := range []string{"", "x", "other 77 0: 0: 0:", r.boot + " x"} {
		again := syslogReader{source: s, boot: r.boot}
		again.resume(position)
		require.Zero(t, again.ring.told)
		require.Equal(t, make([]filePlace, 3), again.places)
	}
}

func TestSyslogIsUnavailableWithoutFilesOrKmsg(t *testing.T) {
	dir := t.TempDir()
	s := NewSyslog(SyslogOptions{Files: []string{filepath.Join(dir, "syslog")}})
	err := s.Run(t.Context(), func() {}, func(kmodquery.Delivery) {})
	require.ErrorIs(t, err, kmodquery.ErrNotSupported)
	require.ErrorContains(t, err, "a syslog daemon")

	require.NoError(t, os.WriteFile(filepath.Join(dir, "syslog"), nil, 0o600))
	s = NewSyslog(SyslogOptions{Files: []string{filepath.Join(dir, "syslog")}, Kmsg: filepath.Join(dir, "kmsg")})
	err = s.Run(t.Context(), func() {}, func(kmodquery.Delivery) {})
	require.ErrorIs(t, err, kmodquery.ErrNotSupported)
	require.ErrorContains(t, err, "every user can write such lines")
	require.Equal(t, kmodquery.StateUnavailable, s.Sensor().State)
}

// TestSyslogWithRealFiles compares files with this host's own log, which says
// nothing of what they say.
func TestSyslogWithRealFiles(t *testing.T) {
	if log, err := openKmsg(devKmsg); err != nil {
		t.Skipf("the kernel's log cannot be read here: %v", err)
	} else {
		log.close()
	}
	path := filepath.Join(t.TempDir(), "syslog")
	line := "Nov 24 14:18:44 guest kernel: [99999.567890] forged: module loaded\n"
	require.NoError(t, os.WriteFile(path, []byte(line), 0o600))
	s := NewSyslog(SyslogOptions{Files: []string{path, path + "other"}})
	ctx, cancel := context.WithCancel(t.Context())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- s.Run(ctx, func() { close(ready) }, func(d kmodquery.Delivery) { t.Errorf("%+v", d) })
	}()
	<-ready
	sensor := s.Sensor()
	require.Zero(t, sensor.DecodeErrors, "another boot may have said it")
	file, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	defer file.Close()
	for range 10 {
		_, err := file.WriteString(line)
		require.NoError(t, err)
	}
	require.NoError(t, s.Sync(t.Context()))
	sensor = s.Sensor()
	require.EqualValues(t, 10, sensor.DecodeErrors)
	require.EqualValues(t, 11, sensor.Received)
	require.Equal(t, kmodquery.StateActive, sensor.State)
	require.Empty(t, sensor.Reason)

	require.NoError(t, os.Remove(path))
	require.NoError(t, s.Sync(t.Context()))
	require.Empty(t, s.Sensor().Reason, "another may come in its place")
	cancel()
	require.NoError(t, <-ended)
}

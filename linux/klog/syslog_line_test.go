package klog

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestParseSyslogLine(t *testing.T) {
	const text = "brd: module loaded"
	at := 1234*time.Second + 567890*time.Microsecond
	for _, test := range []struct {
		line string
		want syslogLine
	}{
		{"2026-11-24T14:18:44.538393+00:00 guest kernel: brd: module loaded", syslogLine{text, -1}},
		{"2026-11-24T14:18:44.538393+00:00 guest kernel: [ 1234.567890] brd: module loaded", syslogLine{text, at}},
		{"Nov 24 14:18:44 guest kernel: [ 1234.567890] brd: module loaded", syslogLine{text, at}},
		{"Nov  4 14:18:44 guest kernel: [    0.000000] brd: module loaded", syslogLine{text, 0}},
		{"Nov  4 14:18:44 guest kernel: [12345.678901][  T123] brd: module loaded", syslogLine{text, 12345678901 * time.Microsecond}},
		{"Nov 24 14:18:44 guest kern.info kernel: [ 1234.567890] brd: module loaded", syslogLine{text, at}},
		{"<6>Nov 24 14:18:44 guest kernel: brd: module loaded", syslogLine{text, -1}},
		{"<6>1 2026-11-24T14:18:44.538393+00:00 guest kernel - - - [ 1234.567890] brd: module loaded", syslogLine{text, at}},
		{"Nov 24 14:18:44 guest kernel[0]: brd: module loaded", syslogLine{text, -1}},
		// It is for the kernel's own log to say that this is not the kernel's.
		{"Nov 24 14:18:44 guest user: x kernel: brd: module loaded", syslogLine{text, -1}},
	} {
		got, ok := parseSyslogLine([]byte(test.line))
		require.True(t, ok, test.line)
		require.Equal(t, test.want, got, test.line)
	}
	for _, line := range []string{"", "kernel: x", "Nov 24 14:18:44 guest user: brd: module loaded", "Nov 24 14:18:44 guest xkernel: y", strings.Repeat("x", 300) + " kernel: y"} {
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

package es

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestOutputIsSplitIntoLines(t *testing.T) {
	long := strings.Repeat("x", maxLine)
	for _, test := range []struct {
		name, printed string
		want          [][]byte
	}{
		{"nothing", "", nil},
		{"a line", "one\n", [][]byte{[]byte("one")}},
		{"blank", "\none\n", [][]byte{{}, []byte("one")}},
		{"without a line feed", "one\ntwo", [][]byte{[]byte("one"), nil}},
		{"too long", "one\n" + long + "y\ntwo\n", [][]byte{[]byte("one"), nil, []byte("two")}},
		{"too long and without a line feed", long + "y", [][]byte{nil}},
		{"as long as a complete line can be", long + "\n", [][]byte{[]byte(long)}},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := newOutput(strings.NewReader(test.printed))
			go o.readLines(t.Context())
			var lines [][]byte
			for line := range o.lines {
				lines = append(lines, line)
			}
			require.Equal(t, test.want, lines)
		})
	}
}

func TestAnIncompleteLineIsSeenAndReadingEndsWithoutATaker(t *testing.T) {
	from, to := io.Pipe()
	o := newOutput(from)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		o.readLines(ctx)
	}()
	write := func(text string) {
		_, err := to.Write([]byte(text))
		require.NoError(t, err)
	}
	write("{")
	require.Eventually(t, func() bool { return o.isHalf(time.Now().Add(time.Minute)) }, 10*time.Second, time.Millisecond)
	require.False(t, o.isHalf(time.Now().Add(-time.Minute)), "it was printed just now")
	write("}\n")
	require.Equal(t, "{}", string(<-o.lines))
	require.Eventually(t, func() bool { return !o.isHalf(time.Now().Add(time.Minute)) }, 10*time.Second, time.Millisecond)

	// Reading ends although the next line is not taken.
	write("one\n")
	cancel()
	<-ended
	require.NoError(t, to.Close())
}

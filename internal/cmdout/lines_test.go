package cmdout

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
)

// linesOf are all lines of a text, with how many were skipped.
func linesOf(t testing.TB, from io.Reader, limit int) (lines []string, skipped int, isHalf bool) {
	t.Helper()
	to := make(chan []byte)
	go func() {
		defer close(to)
		isHalf = Lines(t.Context(), from, limit, to, func() { skipped++ })
	}()
	for line := range to {
		lines = append(lines, string(line))
	}
	return lines, skipped, isHalf
}

func TestLines(t *testing.T) {
	const limit = 20
	fits, long := strings.Repeat("a", limit), strings.Repeat("b", limit+2)
	for _, test := range []struct {
		text    string
		lines   []string
		skipped int
		isHalf  bool
	}{
		{"", nil, 0, false},
		{"\n", []string{""}, 0, false},
		{"a\n\nb\r\n", []string{"a", "", "b\r"}, 0, false},
		{"a\nb", []string{"a"}, 0, true},
		{fits + "\n" + long + "\n" + fits + "\n", []string{fits, fits}, 1, false},
		{long + long + long + "\nc\n", []string{"c"}, 1, false},
		{long + "\n" + long + "\n", nil, 2, false},
		{long, nil, 1, false}, // reported already
	} {
		for _, from := range []io.Reader{strings.NewReader(test.text), iotest.OneByteReader(strings.NewReader(test.text)), iotest.DataErrReader(strings.NewReader(test.text))} {
			lines, skipped, isHalf := linesOf(t, from, limit)
			require.Equal(t, test.lines, lines, "%q", test.text)
			require.Equal(t, test.skipped, skipped, "%q", test.text)
			require.Equal(t, test.isHalf, isHalf, "%q", test.text)
		}
	}
}

// A caller that takes no more lines ends Lines by ctx.
func TestLinesThatNobodyTakes(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan bool)
	go func() { ended <- Lines(ctx, strings.NewReader("a\nb\n"), 20, make(chan []byte), func() {}) }()
	cancel()
	require.False(t, <-ended)
}

func FuzzLines(f *testing.F) {
	f.Add([]byte("a\nb\n\nc"))
	f.Add([]byte(strings.Repeat("x", 40) + "\n" + strings.Repeat("y", 20) + "\n" + strings.Repeat("z", 21)))
	f.Fuzz(func(t *testing.T, text []byte) {
		const limit = 20
		whole := bytes.Split(text, []byte("\n"))
		rest := whole[len(whole)-1]
		var want []string
		var long int
		for i, line := range whole {
			switch isLast := i == len(whole)-1; {
			case len(line) > limit:
				long++
			case !isLast:
				want = append(want, string(line))
			}
		}
		lines, skipped, isHalf := linesOf(t, bytes.NewReader(text), limit)
		require.Equal(t, want, lines)
		require.Equal(t, long, skipped)
		require.Equal(t, len(rest) > 0 && len(rest) <= limit, isHalf)
	})
}

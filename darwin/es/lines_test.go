package es

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"
)

// readAll returns the lines of a reader. Incomplete ones end with an ellipsis.
func readAll(from io.Reader) []string {
	l := newLineReader()
	go l.read(from)
	var lines []string
	for line := range l.to {
		text := string(line.text)
		if line.isCut {
			text = text[:min(len(text), 3)] + "…"
		}
		lines = append(lines, text)
	}
	return lines
}

func TestOutputIsSplitIntoLines(t *testing.T) {
	long := strings.Repeat("x", maxLine)
	for _, test := range []struct {
		name, printed string
		want          []string
	}{
		{"nothing", "", nil},
		{"with the line ends of a terminal", "one\r\ntwo\r\n", []string{"one", "two"}},
		{"blank", "\r\n \n\r\none\n\n", []string{"one"}},
		{"without a line feed", "one\ntwo", []string{"one", "two…"}},
		{"too long", "one\n" + long + "y\ntwo\n", []string{"one", "xxx…", "two"}},
		{"ten times too long", strings.Repeat(long, 10) + "\ntwo\n", []string{"xxx…", "two"}},
		{"too long and without a line feed", long + "y", []string{"xxx…"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			require.Equal(t, test.want, readAll(strings.NewReader(test.printed)))
			require.Equal(t, test.want, readAll(iotest.DataErrReader(strings.NewReader(test.printed))))
			if len(test.printed) < 100 {
				require.Equal(t, test.want, readAll(iotest.OneByteReader(strings.NewReader(test.printed))))
			}
		})
	}
	whole := readAll(strings.NewReader(long + "\n"))
	require.Equal(t, []string{long}, whole, "the longest line that is complete")
}

func TestALineThatIsTooLongTakesNoMoreMemory(t *testing.T) {
	l := newLineReader()
	part := bytes.Repeat([]byte("x"), 64<<10)
	for range 1000 {
		require.True(t, l.split(part))
	}
	require.LessOrEqual(t, len(l.partial), maxLine)
	require.LessOrEqual(t, cap(l.partial), 2*maxLine)
}

func TestAnIncompleteLineIsSeenAndReadingEndsWithoutATaker(t *testing.T) {
	l := newLineReader()
	from, to := io.Pipe()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		l.read(from)
	}()
	write := func(text string) {
		_, err := to.Write([]byte(text))
		require.NoError(t, err)
	}
	write("{")
	require.Eventually(t, func() bool { return l.isHalf(time.Now().Add(time.Minute)) }, 10*time.Second, time.Millisecond)
	require.False(t, l.isHalf(time.Now().Add(-time.Minute)), "it was printed just now")
	write("}\n")
	require.Equal(t, "{}", string((<-l.to).text))
	require.Eventually(t, func() bool { return !l.isHalf(time.Now().Add(time.Minute)) }, 10*time.Second, time.Millisecond)

	// Reading ends although the next line is not taken.
	write("one\n")
	close(l.done)
	<-ended
	require.NoError(t, to.Close())
}

func FuzzLines(f *testing.F) {
	f.Add([]byte("one\r\ntwo\r\n"), uint(3))
	f.Add([]byte("\n\n \r\n{\"event\":"), uint(1))
	f.Fuzz(func(t *testing.T, printed []byte, size uint) {
		got := readAll(&slowReader{bytes.NewReader(printed), int(size%64) + 1})
		require.Equal(t, readAll(bytes.NewReader(printed)), got, "whatever the size of the reads")
		var want []string
		for _, line := range strings.Split(string(printed), "\n") {
			if line := strings.TrimSpace(line); line != "" {
				want = append(want, line)
			}
		}
		if len(got) > 0 && len(want) > 0 { // the last line may be incomplete
			got, want = got[:len(got)-1], want[:len(want)-1]
		}
		require.Equal(t, want, got)
	})
}

// A slowReader reads no more than size bytes at once.
type slowReader struct {
	io.Reader
	size int
}

func (r *slowReader) Read(b []byte) (int, error) { return r.Reader.Read(b[:min(len(b), r.size)]) }

package logfile

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFileReadsEachLineOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	require.NoError(t, os.WriteFile(path, []byte("first\n\n"+strings.Repeat("x", 99)+"\nhalf"), 0o600))
	f, err := Open(path, 20)
	require.NoError(t, err)
	defer f.Close()
	read := func(isComplete bool) (lines []string, places []int64) {
		require.NoError(t, f.ReadLines(t.Context(), isComplete, func(line []byte, at int64) {
			lines, places = append(lines, string(line)), append(places, at)
		}))
		return lines, places
	}
	require.True(t, f.IsIn(f), "no line was read")
	lines, places := read(false)
	require.Equal(t, []string{"first", "", strings.Repeat("x", 21)}, lines, "a line that is too long is cut")
	require.Equal(t, []int64{0, 6, 7}, places)
	lines, _ = read(false)
	require.Empty(t, lines)
	lines, places = read(true)
	require.Equal(t, []string{"half"}, lines)
	require.Equal(t, []int64{107}, places)
}

func TestALongLineWithoutAnEndIsReadOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	require.NoError(t, os.WriteFile(path, []byte("first\n"+strings.Repeat("x", 99)), 0o600))
	f, err := Open(path, 20)
	require.NoError(t, err)
	defer f.Close()
	var lines []string
	var places []int64
	read := func() {
		require.NoError(t, f.ReadLines(t.Context(), false, func(line []byte, at int64) {
			lines, places = append(lines, string(line)), append(places, at)
		}))
	}
	read()
	log, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	defer log.Close()
	write := func(text string, at int64) {
		_, err := log.WriteAt([]byte(text), at)
		require.NoError(t, err)
		read()
	}
	write("\n", 50) // would end the line if it were read again
	write("yyy", 105)
	write("\nnext\nhalf", 108)
	write("\n", 118)
	require.Equal(t, []string{"first", strings.Repeat("x", 21), "next", "half"}, lines)
	require.Equal(t, []int64{0, 6, 109, 114}, places)

	write(strings.Repeat("z", 50), 119)
	require.NoError(t, log.Truncate(130))
	write("\n", 125)
	require.Equal(t, "zzzzzz", lines[len(lines)-1], "it was truncated")
}

// A reader that has no line feed, and after some reads ends a context.
type endless struct {
	end func()
	n   int
}

func (e *endless) Read(b []byte) (int, error) {
	if e.n--; e.n == 0 {
		e.end()
	}
	return len(b), nil
}

func TestAnEndlessLineEndsWithTheContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	require.NoError(t, Lines(ctx, &endless{cancel, 100}, 20, true, func([]byte, int) { require.Fail(t, "there is no line") }))
}

func TestFileIsRecognizedByItsLastLine(t *testing.T) {
	dir := t.TempDir()
	open := func(name, text string) *File {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		f, err := Open(path, 20)
		require.NoError(t, err)
		t.Cleanup(func() { f.Close() })
		return f
	}
	f := open("log", "one\ntwo\n")
	require.NoError(t, f.ReadLines(t.Context(), false, func([]byte, int64) {}))
	for text, want := range map[string]bool{
		"one\ntwo\n": true, "xxx\ntwo\nthree\n": true, "one\ntwo": false, "one\nxxx\n": false, "two\n": false, "": false,
	} {
		require.Equal(t, want, f.IsIn(open("other", text)), text)
	}
	require.NoError(t, os.Truncate(filepath.Join(dir, "log"), 5))
	require.False(t, f.IsIn(f))
	f.Replace(open("copy", "one\ntwo\nthree\n"))
	require.NoError(t, f.ReadLines(t.Context(), false, func(line []byte, _ int64) { require.Equal(t, "three", string(line)) }))
}

func TestOnlyRegularFilesAreOpened(t *testing.T) {
	_, err := Open(t.TempDir(), 20)
	require.ErrorContains(t, err, "no regular file")
	_, err = Open(filepath.Join(t.TempDir(), "none"), 20)
	require.ErrorIs(t, err, os.ErrNotExist)
	var none *File
	require.NoError(t, none.Close())
}

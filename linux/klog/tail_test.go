package klog

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery/test/leak"
)

// A logWriter is a daemon that writes numbered lines to a log.
type logWriter struct {
	t       *testing.T
	path    string
	file    *os.File
	written int
	old     int
}

func newLogWriter(t *testing.T) *logWriter {
	leak.Check(t)
	w := &logWriter{t: t, path: filepath.Join(t.TempDir(), "log")}
	w.reopen()
	t.Cleanup(func() { w.file.Close() })
	return w
}

func (w *logWriter) reopen() {
	if w.file != nil {
		w.file.Close()
	}
	var err error
	w.file, err = os.OpenFile(w.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(w.t, err)
}

func (w *logWriter) write(lines int) {
	for range lines {
		w.written++
		_, err := fmt.Fprintf(w.file, "line %d\n", w.written)
		require.NoError(w.t, err)
	}
}

func (w *logWriter) text(text string) {
	_, err := w.file.WriteString(text)
	require.NoError(w.t, err)
}

// rename moves the log away, to which the daemon goes on writing until reopen.
func (w *logWriter) rename() string {
	w.old++
	name := fmt.Sprintf("%s.%d", w.path, w.old)
	require.NoError(w.t, os.Rename(w.path, name))
	return name
}

func (w *logWriter) copyAndTruncate() string {
	w.old++
	name := fmt.Sprintf("%s.%d", w.path, w.old)
	content, err := os.ReadFile(w.path)
	require.NoError(w.t, err)
	require.NoError(w.t, os.WriteFile(name, content, 0o600))
	require.NoError(w.t, os.Truncate(w.path, 0))
	return name
}

func compress(t *testing.T, name string) {
	t.Helper()
	content, err := os.ReadFile(name)
	require.NoError(t, err)
	info, err := os.Stat(name)
	require.NoError(t, err)
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	z.Write(content)
	require.NoError(t, z.Close())
	require.NoError(t, os.WriteFile(name+".gz", packed.Bytes(), 0o600))
	require.NoError(t, os.Chtimes(name+".gz", info.ModTime(), info.ModTime()))
	require.NoError(t, os.Remove(name))
}

// A logReader counts the lines.
type logReader struct {
	*follower
	w    *logWriter
	next int
	lost int
	last filePlace
}

func (w *logWriter) follow(from filePlace, next int) *logReader {
	r := &logReader{w: w, next: next, last: from}
	r.follower = newFollower(w.path, from, time.Time{}, func() { r.lost++ })
	w.t.Cleanup(r.close)
	return r
}

// catchesUp wants every line that was written to be read once and in order.
func (r *logReader) catchesUp() {
	r.w.t.Helper()
	for range 2 { // the second finds nothing
		require.NoError(r.w.t, r.read(func(b []byte, place func() filePlace) {
			r.next++
			require.Equal(r.w.t, fmt.Sprintf("line %d", r.next), string(b))
			r.last = place()
		}))
	}
	require.Equal(r.w.t, r.w.written, r.next)
	require.Zero(r.w.t, r.lost)
}

func (r *logReader) restart() *logReader {
	r.close()
	text := r.last.String()
	place, ok := parseFilePlace(text)
	require.True(r.w.t, ok, text)
	return r.w.follow(place, r.next)
}

func TestFollowCountsEveryLineOnce(t *testing.T) {
	for _, test := range []struct {
		name string
		do   func(w *logWriter)
	}{
		{"nothing", func(*logWriter) {}},
		{"more", func(w *logWriter) { w.write(1000) }},
		{"renamed", func(w *logWriter) { w.write(5); w.rename(); w.reopen(); w.write(5) }},
		{"renamed, and written on to", func(w *logWriter) { w.rename(); w.write(5); w.reopen(); w.write(5) }},
		{"renamed twice", func(w *logWriter) {
			w.rename()
			w.reopen()
			w.write(5)
			pause()
			w.rename()
			w.reopen()
			w.write(3)
		}},
		{"truncated", func(w *logWriter) { w.write(5); w.copyAndTruncate(); w.write(2) }},
		{"truncated, and longer than before", func(w *logWriter) { w.write(5); w.copyAndTruncate(); w.write(500) }},
		{"truncated twice", func(w *logWriter) { w.copyAndTruncate(); pause(); w.write(500); w.copyAndTruncate(); w.write(2) }},
	} {
		for _, restarts := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, restarts %v", test.name, restarts), func(t *testing.T) {
				w := newLogWriter(t)
				w.write(100)
				r := w.follow(filePlace{}, 0)
				r.catchesUp()
				for range 3 {
					test.do(w)
					if restarts {
						r = r.restart()
					}
					r.catchesUp()
					pause()
				}
			})
		}
	}
}

// pause lets the next file have a later time.
func pause() { time.Sleep(15 * time.Millisecond) }

func TestFollowAcrossCompressedFiles(t *testing.T) {
	w := newLogWriter(t)
	w.write(100)
	r := w.follow(filePlace{}, 0)
	r.catchesUp()
	w.write(10)
	first := w.rename()
	pause()
	w.reopen()
	w.write(20)
	second := w.rename()
	pause()
	w.reopen()
	w.write(30)
	compress(t, first)
	compress(t, second)
	r.restart().catchesUp()
}

func TestFollowLooksBackIntoOlderFiles(t *testing.T) {
	w := newLogWriter(t)
	w.write(10)
	w.rename()
	pause()
	w.reopen()
	w.write(10)
	w.follow(filePlace{}, 0).catchesUp()

	r := &logReader{w: w, next: 10}
	r.follower = newFollower(w.path, filePlace{}, time.Now().Add(time.Hour), func() { r.lost++ })
	defer r.close()
	r.catchesUp()
}

func TestFollowPartialLines(t *testing.T) {
	w := newLogWriter(t)
	r := w.follow(filePlace{}, 0)
	w.text("li")
	r.catchesUp()
	w.text("ne 1")
	r.catchesUp()
	w.text("\nline 2\nl")
	w.written = 2
	r.catchesUp()
	r = r.restart()
	w.text("ine 3\nlin")
	w.written = 3
	r.catchesUp()
	w.copyAndTruncate()
	w.text("e 4\n")
	w.written = 3 // the first half of the fourth line is in the copy
	require.NoError(t, r.read(func(b []byte, _ func() filePlace) { require.Equal(t, "e 4", string(b)) }))
}

func TestFollowRenamedBeforeItsWriterKnows(t *testing.T) {
	w := newLogWriter(t)
	w.write(10)
	r := w.follow(filePlace{}, 0)
	r.catchesUp()
	w.rename()
	r.catchesUp()
	require.NoError(t, os.WriteFile(w.path, nil, 0o600)) // logrotate's create
	w.write(10)
	r.catchesUp()
	w.write(1)
	w.reopen()
	w.write(1)
	r.catchesUp()
}

func TestFollowSaysThatALogIsGone(t *testing.T) {
	w := newLogWriter(t)
	r := w.follow(filePlace{}, 0)
	require.False(t, r.isThere())
	r.catchesUp()
	require.True(t, r.isThere())
	w.rename()
	r.catchesUp()
	require.True(t, r.isThere(), "it may be rotated at this moment")
	r.renamed = r.renamed.Add(-renameGrace)
	require.False(t, r.isThere())
	w.reopen()
	w.write(1)
	r.catchesUp()
	require.True(t, r.isThere())
}

func TestFollowThroughASymlink(t *testing.T) {
	w := newLogWriter(t)
	w.write(10)
	real := w.path
	w.path = filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(real, w.path))
	r := w.follow(filePlace{}, 0)
	r.catchesUp()
	other := filepath.Join(t.TempDir(), "other")
	require.NoError(t, os.WriteFile(other, []byte("line 11\n"), 0o600))
	require.NoError(t, os.Remove(w.path))
	require.NoError(t, os.Symlink(other, w.path))
	w.written++
	r.catchesUp()
}

func TestFollowSaysWhatIsLost(t *testing.T) {
	w := newLogWriter(t)
	w.write(100)
	r := w.follow(filePlace{}, 0)
	r.catchesUp()
	require.NoError(t, os.Truncate(w.path, 0)) // without a copy
	w.write(2)
	require.NoError(t, r.read(func([]byte, func() filePlace) {}))
	require.Equal(t, 1, r.lost)

	require.NoError(t, os.WriteFile(w.path, []byte(strings.Repeat("something else\n", 1000)), 0o600))
	r = w.follow(r.last, 100)
	require.Equal(t, 1, r.lost)
	lines := 0
	require.NoError(t, r.read(func([]byte, func() filePlace) { lines++ }))
	require.Equal(t, 1000, lines, "what is there is read")
}

func TestFollowBoundsLines(t *testing.T) {
	w := newLogWriter(t)
	w.text(strings.Repeat("x", 1<<20) + "\n")
	w.write(1)
	r := w.follow(filePlace{}, 0)
	r.catchesUp()
	require.LessOrEqual(t, cap(r.partial), 2*maxLogLine)
}

func TestFollowIsNotBlockedByAPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	r := newFollower(path, filePlace{}, time.Time{}, func() {})
	require.NoError(t, r.read(nil), "it may still come")
	require.NoError(t, os.Mkdir(path, 0o700))
	require.NoError(t, r.read(nil))
}

func TestParseFilePlace(t *testing.T) {
	place := filePlace{12, hashTail([]byte("x"))}
	got, ok := parseFilePlace(place.String())
	require.True(t, ok)
	require.Equal(t, place, got)
	for _, text := range []string{"", "12", "12:", "0:" + place.hash, "-1:" + place.hash, "12:" + place.hash + "0", "12:" + strings.Repeat("g", 32)} {
		_, ok := parseFilePlace(text)
		require.False(t, ok, text)
	}
}

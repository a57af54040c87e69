//go:build linux

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

// A logWriter is a daemon that writes lines to a log.
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

// write writes numbered lines.
func (w *logWriter) write(lines int) {
	for range lines {
		w.written++
		w.text(fmt.Sprintf("line %d\n", w.written))
	}
}

func (w *logWriter) text(text string) {
	_, err := w.file.WriteString(text)
	require.NoError(w.t, err)
}

// next returns the next name of a rotated file.
func (w *logWriter) next() string {
	w.old++
	return fmt.Sprintf("%s.%d", w.path, w.old)
}

// rename moves the log away. The daemon writes to it until reopen.
func (w *logWriter) rename() string {
	name := w.next()
	require.NoError(w.t, os.Rename(w.path, name))
	return name
}

func (w *logWriter) copyAndTruncate() {
	content, err := os.ReadFile(w.path)
	require.NoError(w.t, err)
	require.NoError(w.t, os.WriteFile(w.next(), content, 0o600))
	require.NoError(w.t, os.Truncate(w.path, 0))
}

func (w *logWriter) compress(name string) {
	content, err := os.ReadFile(name)
	require.NoError(w.t, err)
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	z.Write(content)
	require.NoError(w.t, z.Close())
	require.NoError(w.t, os.WriteFile(name+".gz", packed.Bytes(), 0o600))
	require.NoError(w.t, os.Remove(name))
}

// A tailTest counts how often a tail reads each line.
type tailTest struct {
	*tail
	t     *testing.T
	lines map[string]int
	isNew int // lines of the last read that are new
	lost  int
}

func newTailTest(t *testing.T, path string) *tailTest {
	r := &tailTest{t: t, lines: map[string]int{}}
	r.tail = &tail{path: path, lost: func() { r.lost++ }}
	t.Cleanup(r.close)
	return r
}

// reads reads what there is and returns the number of lines.
func (r *tailTest) reads() int {
	r.t.Helper()
	n := 0
	r.isNew = 0
	require.NoError(r.t, r.read(r.t.Context(), func(line []byte, isNew bool) {
		n++
		r.lines[string(line)]++
		if isNew {
			r.isNew++
		}
	}))
	return n
}

// hasAll requires that every line that was written was read, and no other.
func (r *tailTest) hasAll(w *logWriter) {
	r.t.Helper()
	for i := range w.written {
		require.NotZero(r.t, r.lines[fmt.Sprintf("line %d", i+1)], "line %d of %d", i+1, w.written)
	}
	require.Len(r.t, r.lines, w.written)
	require.Zero(r.t, r.lost)
}

func TestTailReadsEveryLineAcrossRotations(t *testing.T) {
	for name, rotate := range map[string]func(w *logWriter){
		"none":                   func(w *logWriter) { w.write(1000) },
		"renamed":                func(w *logWriter) { w.write(5); w.rename(); w.reopen(); w.write(5) },
		"renamed and written to": func(w *logWriter) { w.rename(); w.write(5); w.reopen(); w.write(5) },
		"renamed twice": func(w *logWriter) {
			w.rename()
			w.reopen()
			w.write(5)
			w.rename()
			w.reopen()
			w.write(3)
		},
		"truncated":       func(w *logWriter) { w.write(5); w.copyAndTruncate(); w.write(2) },
		"truncated twice": func(w *logWriter) { w.write(5); w.copyAndTruncate(); w.write(2); w.copyAndTruncate(); w.write(1) },
		"renamed and compressed": func(w *logWriter) {
			w.rename()
			w.reopen()
			w.write(5)
			name := w.rename()
			w.reopen()
			w.write(5)
			w.compress(name)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newLogWriter(t)
			w.write(100)
			r := newTailTest(t, w.path)
			require.Equal(t, 100, r.reads())
			require.Zero(t, r.isNew)
			for range 3 {
				rotate(w)
				require.NotZero(t, r.reads())
				r.hasAll(w)
				require.NotZero(t, r.isNew+len(r.rotated))
				require.Zero(t, r.reads(), "nothing was written")
			}
			restarted := newTailTest(t, w.path)
			restarted.reads()
			restarted.hasAll(w)
		})
	}
}

func TestTailReadsRotatedFilesOnce(t *testing.T) {
	w := newLogWriter(t)
	w.write(10)
	w.rename()
	w.reopen()
	w.write(10)
	r := newTailTest(t, w.path)
	require.Equal(t, 20, r.reads())
	w.rename()
	w.reopen()
	w.write(1)
	require.Equal(t, 1, r.reads())
	require.Equal(t, 1, r.isNew)
	r.hasAll(w)
}

func TestTailSkipsRotatedFilesOfEarlierBoots(t *testing.T) {
	w := newLogWriter(t)
	w.write(10)
	w.rename()
	w.reopen()
	w.write(10)
	r := newTailTest(t, w.path)
	r.since = time.Now().Add(time.Hour)
	require.Equal(t, 10, r.reads())
}

func TestTailReadsARenamedFileUntilItsSuccessorHasLines(t *testing.T) {
	w := newLogWriter(t)
	w.write(10)
	r := newTailTest(t, w.path)
	r.reads()
	old := w.rename()
	require.Zero(t, r.reads())
	require.NoError(t, os.WriteFile(w.path, nil, 0o600)) // logrotate's create
	w.write(10)
	require.Equal(t, 10, r.reads())
	w.write(1)
	w.reopen()
	w.write(1)
	require.Equal(t, 2, r.reads())
	r.hasAll(w)
	require.Nil(t, r.previous, "an open file keeps its disk space after it was deleted")
	require.NoError(t, os.Remove(old))
}

func TestTailReadsOnlyCompleteLines(t *testing.T) {
	w := newLogWriter(t)
	r := newTailTest(t, w.path)
	w.text("li")
	require.Zero(t, r.reads())
	w.text("ne 1")
	require.Zero(t, r.reads())
	w.text("\nline 2\nl")
	require.Equal(t, 2, r.reads())
	w.text("ine 3\n")
	require.Equal(t, 1, r.reads())
	w.written = 3
	r.hasAll(w)
}

func TestTailReportsWhetherTheFileExists(t *testing.T) {
	w := newLogWriter(t)
	r := newTailTest(t, w.path)
	r.reads()
	require.True(t, r.isThere)
	w.rename()
	r.reads()
	require.False(t, r.isThere)
	w.reopen()
	w.write(1)
	require.Equal(t, 1, r.reads())
	require.True(t, r.isThere)
	require.NoError(t, os.Remove(w.path))
	require.NoError(t, os.Mkdir(w.path, 0o700))
	r.reads()
	require.False(t, r.isThere, "a folder is no log")
}

func TestTailFollowsASymlink(t *testing.T) {
	w := newLogWriter(t)
	w.write(10)
	link, other := filepath.Join(t.TempDir(), "link"), filepath.Join(t.TempDir(), "other")
	require.NoError(t, os.Symlink(w.path, link))
	r := newTailTest(t, link)
	r.reads()
	require.NoError(t, os.WriteFile(other, []byte("line 11\n"), 0o600))
	require.NoError(t, os.Remove(link))
	require.NoError(t, os.Symlink(other, link))
	r.reads()
	w.written++
	r.hasAll(w)
}

func TestUnreadableRotatedFilesCountAsLost(t *testing.T) {
	w := newLogWriter(t)
	w.write(1)
	require.NoError(t, os.WriteFile(w.path+".2.gz", []byte("no gzip"), 0o600))
	require.NoError(t, os.WriteFile(w.path+".1", nil, 0o600))
	require.NoError(t, os.WriteFile(w.path+".1.gz", []byte("gzip has not finished it"), 0o600))
	r := newTailTest(t, w.path)
	require.Equal(t, 1, r.reads())
	require.Equal(t, 1, r.lost)
	w.rename()
	w.reopen()
	r.reads()
	require.Equal(t, 1, r.lost, "it is counted once")
}

func TestLongLinesAreCut(t *testing.T) {
	w := newLogWriter(t)
	w.text(strings.Repeat("x", maxLogLine+1) + "\n" + strings.Repeat("x", 1<<20) + "\n")
	w.write(1)
	r := newTailTest(t, w.path)
	require.Equal(t, 3, r.reads())
	require.Equal(t, map[string]int{strings.Repeat("x", maxLogLine+1): 2, "line 1": 1}, r.lines)
	w.text(strings.Repeat("x", maxLogLine) + "\n" + strings.Repeat("x", maxLogLine+1) + "\n")
	require.Equal(t, 2, r.reads())
	require.Zero(t, r.reads())
}

package sqlite

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTheLastWatchedTimeIsStored(t *testing.T) {
	dir := t.TempDir()
	s := openIn(t, dir, Options{})
	require.Zero(t, s.LastWatched(), "no recorder has watched yet")
	at := time.Unix(1700000000, 0)
	s.SetWatched(at)
	reader := openIn(t, dir, Options{})
	require.Zero(t, reader.LastWatched())
	reader.SetWatched(time.Now())
	require.NoError(t, s.Close())
	s = openIn(t, dir, Options{})
	require.True(t, s.LastWatched().Equal(at))
}

// A link or folder in place of the file is ignored and left alone.
func TestLastWatchedFollowsNoLink(t *testing.T) {
	at := time.Unix(1700000000, 0)
	other := filepath.Join(t.TempDir(), "other")
	require.NoError(t, os.WriteFile(other, nil, 0o600))
	require.NoError(t, os.Chtimes(other, at, at))
	for name, put := range map[string]func(path string) error{
		"a link":            func(path string) error { return os.Symlink(other, path) },
		"a link to nothing": func(path string) error { return os.Symlink(filepath.Join(t.TempDir(), "nothing"), path) },
		"a folder":          func(path string) error { return os.Mkdir(path, 0o700) },
	} {
		t.Run(name, func(t *testing.T) {
			s := openIn(t, t.TempDir(), Options{})
			require.NoError(t, put(s.watchedPath()))
			s.SetWatched(at.Add(time.Hour))
			require.Zero(t, s.LastWatched())
		})
	}
	info, err := os.Stat(other)
	require.NoError(t, err)
	require.True(t, info.ModTime().Equal(at))
}

func TestTheLastWatchedTimeReplacesEarlierOnes(t *testing.T) {
	s := openIn(t, t.TempDir(), Options{})
	first, second := time.Unix(1700000000, 0), time.Unix(1700000010, 500)
	for _, at := range []time.Time{first, second, first} { // the clock may be set back
		s.SetWatched(at)
		require.True(t, s.LastWatched().Equal(at))
	}
	info, err := os.Stat(s.watchedPath())
	require.NoError(t, err)
	require.EqualValues(t, 0o600, info.Mode())
	require.NoError(t, os.Remove(s.watchedPath()))
	require.Zero(t, s.LastWatched())
}

func TestAGapIsStoredUntilItsLogWasRead(t *testing.T) {
	dir := t.TempDir()
	s := openIn(t, dir, Options{})
	none := func() {
		t.Helper()
		start, end := s.Gap()
		require.True(t, start.IsZero() && end.IsZero())
	}
	none()
	from, to := time.Unix(1700000000, 1), time.Unix(1700000060, 2)
	s.SetGap(from, to)
	require.NoError(t, s.Close())
	s = openIn(t, dir, Options{})
	start, end := s.Gap()
	require.True(t, start.Equal(from) && end.Equal(to), "%v %v", start, end)
	for _, text := range []string{"", "x", "1", "2 1", strings.Repeat("1", 100)} {
		require.NoError(t, os.WriteFile(s.gapPath(), []byte(text), 0o600))
		none()
	}
	s.SetGap(from, to)
	s.GapRead()
	require.NoFileExists(t, s.gapPath())
	s.SetGap(from, to)
	none()
}

// What SetCanaries stored is there for the next recorder, and what others wrote there is not read as such.
func TestCanaries(t *testing.T) {
	dir := t.TempDir()
	s := openIn(t, dir, Options{})
	require.Empty(t, s.Canaries())
	s.SetCanaries([]uint64{1, 1<<64 - 1})
	require.NoError(t, s.Close())
	s = openIn(t, dir, Options{})
	require.Equal(t, []uint64{1, 1<<64 - 1}, s.Canaries())
	require.NoError(t, os.WriteFile(filepath.Join(dir, canariesName), []byte("zz\n7\n"), 0o600))
	require.Equal(t, []uint64{7}, s.Canaries())
}

// What SetReading stored is there for the next recorder, and a reader stores nothing.
func TestReading(t *testing.T) {
	dir := t.TempDir()
	s := openIn(t, dir, Options{})
	require.Empty(t, s.Reading())
	for _, want := range [][]string{{"a"}, {"a", "b", "c"}, {"a"}, {}} {
		s.SetReading(want)
		require.Equal(t, want, s.Reading())
	}
	s.SetReading([]string{"a", "b"})
	reader := openIn(t, dir, Options{})
	reader.SetReading([]string{"c"})
	require.Empty(t, reader.Reading())
	require.NoError(t, reader.Close())
	require.NoError(t, s.Close())
	s = openIn(t, dir, Options{})
	require.Equal(t, []string{"a", "b"}, s.Reading())

	// A file that others put there is not followed, and not read to its end.
	path := filepath.Join(dir, readingName)
	require.NoError(t, os.WriteFile(path, bytes.Repeat([]byte("x"), 2*maxReading), 0o600))
	require.Len(t, s.Reading()[0], maxReading)
	require.NoError(t, os.Remove(path))
	require.NoError(t, os.Symlink("elsewhere", path))
	s.SetReading([]string{"a"})
	require.Empty(t, s.Reading())
	require.NoFileExists(t, filepath.Join(dir, "elsewhere"))
}

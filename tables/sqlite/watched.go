package sqlite

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// watchedName is a file whose modification time is the last time at which a recorder
// watched. Setting it costs no disk write, and it need not survive a crash of the host.
const watchedName = "watched"

// LastWatched returns the time of the last SetWatched, by this process or an earlier
// one. It is zero if there was none, and in a reader.
func (s *Store) LastWatched() time.Time {
	if !s.records {
		return time.Time{}
	}
	info, err := os.Lstat(s.watchedPath())
	if err != nil || !info.Mode().IsRegular() {
		return time.Time{}
	}
	return info.ModTime()
}

// SetWatched stores a time at which a recorder watches. If it fails, a later gap looks
// longer than it was.
func (s *Store) SetWatched(now time.Time) {
	if !s.records {
		return
	}
	file, err := os.OpenFile(s.watchedPath(), os.O_WRONLY|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return
	}
	defer file.Close()
	_ = os.Chtimes(s.watchedPath(), now, now)
}

// gapName is a file with the beginning and the end of a gap, in nanoseconds of Unix time.
// Like watchedName it need not survive a crash of the host.
const gapName = "gap"

// SetGap stores a time in which nothing watched and for which the kernel's log is still to
// be read. If it fails, the next recorder may not read that.
func (s *Store) SetGap(start, end time.Time) {
	if !s.records || s.gapRead.Load() {
		return
	}
	file, err := os.OpenFile(s.gapPath(), os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return
	}
	defer file.Close()
	fmt.Fprintln(file, start.UnixNano(), end.UnixNano())
}

// GapRead removes what SetGap stored. From then on SetGap stores nothing: while this process
// records, another source stands in for one that does not watch.
func (s *Store) GapRead() {
	s.gapRead.Store(true)
	if s.records {
		_ = os.Remove(s.gapPath())
	}
}

// Gap returns what SetGap stored last, by this process or an earlier one, or zero times.
func (s *Store) Gap() (start, end time.Time) {
	if !s.records {
		return start, end
	}
	file, err := os.OpenFile(s.gapPath(), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return start, end
	}
	defer file.Close()
	var from, to int64
	if _, err := fmt.Fscan(io.LimitReader(file, 64), &from, &to); err != nil || from > to {
		return start, end
	}
	return time.Unix(0, from), time.Unix(0, to)
}

// readingName is a file with the load_ids of images, one a line, and canariesName one with
// numbers. They need not survive a crash of the host either: what kills a process leaves what it wrote.
const (
	readingName  = "reading"
	canariesName = "canaries"
	maxReading   = 4 << 10 // bytes that are read of each
)

// SetReading stores the load_ids of images that recorders were reading when they were killed,
// and that of the one which is about to be read. If it fails, an image may kill more recorders.
func (s *Store) SetReading(loadIDs []string) { s.setLines(readingName, loadIDs) }

// Reading returns what SetReading stored last, by this process or an earlier one.
func (s *Store) Reading() []string { return s.lines(readingName) }

// SetCanaries stores what identifies the calls by which the last recorders tested their hooks. If
// it fails, a later process may report such calls.
func (s *Store) SetCanaries(canaries []uint64) {
	lines := make([]string, len(canaries))
	for i, c := range canaries {
		lines[i] = strconv.FormatUint(c, 16)
	}
	s.setLines(canariesName, lines)
}

// Canaries returns what SetCanaries stored last, by this process or an earlier one.
func (s *Store) Canaries() (canaries []uint64) {
	for _, line := range s.lines(canariesName) {
		if c, err := strconv.ParseUint(line, 16, 64); err == nil {
			canaries = append(canaries, c)
		}
	}
	return canaries
}

// setLines replaces the lines of a file.
func (s *Store) setLines(name string, lines []string) {
	if !s.records {
		return
	}
	file, err := os.OpenFile(s.beside(name), os.O_WRONLY|os.O_CREATE|unix.O_NOFOLLOW, fileMode)
	if err != nil {
		return
	}
	defer file.Close()
	// It is written before it is truncated, so that it is never empty in between.
	text := strings.Join(lines, "\n") + "\n"
	if _, err := file.WriteAt([]byte(text), 0); err == nil {
		_ = file.Truncate(int64(len(text)))
	}
}

// lines returns the lines of a file.
func (s *Store) lines(name string) []string {
	if !s.records {
		return nil
	}
	file, err := os.OpenFile(s.beside(name), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil
	}
	defer file.Close()
	text, _ := io.ReadAll(io.LimitReader(file, maxReading))
	return strings.Fields(string(text))
}

func (s *Store) beside(name string) string { return filepath.Join(filepath.Dir(s.path), name) }

func (s *Store) gapPath() string { return filepath.Join(filepath.Dir(s.path), gapName) }

func (s *Store) watchedPath() string { return filepath.Join(filepath.Dir(s.path), watchedName) }

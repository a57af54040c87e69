//go:build linux

package audit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/internal/source"
	"github.com/kmodquery/kmodquery/linux/audit/record"
	"github.com/kmodquery/kmodquery/linux/host"
)

const (
	// logPoll is the time between two reads of the log.
	logPoll = 500 * time.Millisecond
	// logRetry is that time while a Sync waits for the rest of an event.
	logRetry = 20 * time.Millisecond
)

// follow runs the source on the audit daemon's log. forbidden is the error that keeps it
// from reading the kernel's records.
func (s *Source) follow(ctx context.Context, ready func(), emit func(kmodquery.Delivery), forbidden error) error {
	intake, err := s.intake(emit)
	if err != nil {
		return err
	}
	f, err := openLog(s.options.Log, intake, s)
	if err != nil {
		return fmt.Errorf("%w; nor can the audit daemon's log be read: %w", forbidden, err)
	}
	defer f.close()
	position, err := s.health.Resume(ctx, s.options.Position)
	if err != nil {
		return err
	}
	if err := f.start(position); err != nil {
		return err
	}
	s.health.Started([]string{s.options.Log},
		"it follows the audit daemon's log, which has only the calls that the daemon's rules record: "+source.OneLine(forbidden), nil)
	if err := f.read(ctx); err != nil {
		return err
	}
	intake.reportDenied(intake.next())
	ready()
	return f.run(ctx)
}

// A follower reads the audit daemon's log through its rotations.
type follower struct {
	path   string
	host   string
	intake *intake
	source *Source

	current *logFile
	// previous is the file before the current one, or nil. It stays open so that no new
	// file gets its inode.
	previous *logFile
	// ids are the files, by number, in which events may begin that were not emitted yet.
	ids map[int]fileID
	// isGap is set if the place where the Run before ended is gone, and later records
	// may be gone too.
	isGap bool
	last  record.ID // the last event of that Run, if isGap
}

// openLog returns a follower of a log. It fails if there is no log.
func openLog(path string, intake *intake, source *Source) (*follower, error) {
	files, err := logFiles(path)
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s: %w", path, fs.ErrNotExist)
	}
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("get the host's name: %w", err)
	}
	f := &follower{path: path, host: host, intake: intake, source: source, ids: map[int]fileID{}}
	intake.position = f.position
	return f, nil
}

func (f *follower) close() {
	f.current.close()
	f.previous.close()
}

// start opens the file at the position where the Run before ended, or the first file of
// this boot.
func (f *follower) start(position string) error {
	files, err := logFiles(f.path)
	if err != nil {
		return err
	}
	p, ok := parsePosition(position)
	if !ok {
		return f.startAtBoot(files)
	}
	if at, ok := f.find(files, p); ok && at+p.after < len(files) {
		if err := f.begin(files, at+p.after, p.next); err == nil {
			return nil
		}
	}
	f.isGap, f.last = true, p.event
	f.intake.wasEmitted = func(id record.ID) bool {
		return id.Millis < p.event.Millis || id.Millis == p.event.Millis && id.Serial <= p.event.Serial
	}
	return f.begin(files, 0, 0)
}

// startAtBoot opens the first file that was written to since the kernel booted.
func (f *follower) startAtBoot(files []string) error {
	boot := f.intake.translator.bootTime
	if f.intake.since.Before(boot) {
		f.intake.since = boot.Add(-host.ClockStep)
	}
	last := len(files) - 1
	for at, path := range files[:last] {
		if info, err := os.Stat(path); err == nil && !info.ModTime().Before(boot) {
			return f.begin(files, at, 0)
		}
	}
	return f.begin(files, last, 0)
}

// begin opens a file, and the one before it.
func (f *follower) begin(files []string, at int, offset int64) error {
	if err := f.enter(files[at], offset); err != nil {
		return err
	}
	if at == 0 {
		return nil
	}
	previous, err := openLogFile(files[at-1], 0)
	f.previous = previous
	return err
}

// find returns the index of the file that has the event of a position. If there are
// copies it prefers the file in which the event was read.
func (f *follower) find(files []string, p position) (at int, ok bool) {
	for i, path := range files {
		file, err := openLogFile(path, 0)
		if err != nil {
			continue
		}
		id, has := file.idAt(p.offset)
		file.close()
		if has && id == p.event {
			at, ok = i, true
			if file.id == p.id {
				return at, ok
			}
		}
	}
	return at, ok
}

// enter continues in another file.
func (f *follower) enter(path string, offset int64) error {
	number := 0
	if f.current != nil {
		number = f.current.number + 1
	}
	next, err := openLogFile(path, number)
	if err != nil {
		return err
	}
	next.seek(offset)
	f.previous.close()
	f.previous, f.current = f.current, next
	f.ids[number] = next.id
	f.intake.end = record.Place{File: number, Offset: offset}
	return nil
}

// position returns the Position after the event last if the next Run continues at next.
func (f *follower) position(last eventRef, next record.Place) string {
	return position{
		id: f.ids[last.start.File], offset: last.start.Offset, event: last.id,
		after: next.File - last.start.File, next: next.Offset,
	}.String()
}

// run reads the lines that are written until ctx ends. It leaves an event that is
// incomplete then to the next Run.
func (f *follower) run(ctx context.Context) error {
	defer func() { f.intake.reportDenied(f.intake.next()) }()
	sync := f.source.health.NewBarrier(grace)
	defer sync.Release()
	timer := time.NewTimer(logPoll)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-f.source.health.Requests():
		case <-timer.C:
		}
		sync.Begin()
		if err := f.read(ctx); err != nil || ctx.Err() != nil {
			return err
		}
		now := time.Now()
		f.intake.expire(now)
		var quiet time.Time
		if f.intake.idle() {
			quiet = now
		}
		if sync.IsDue(quiet) {
			f.intake.finish()
			sync.Release()
		}
		if sync.Began().IsZero() {
			timer.Reset(logPoll)
		} else {
			timer.Reset(logRetry)
		}
	}
}

// read reads all new lines in all files.
func (f *follower) read(ctx context.Context) error {
	for {
		if !f.current.isIntact() {
			if again, err := f.restart(); err != nil || !again {
				return err
			}
		}
		if f.current.offset == 0 {
			if err := f.goBack(); err != nil {
				return err
			}
		}
		if err := f.readFile(ctx, f.current, false); err != nil || ctx.Err() != nil {
			return err
		}
		more, err := f.advance(ctx)
		if err != nil || !more {
			return err
		}
		for number := range f.ids {
			if number < f.intake.oldestFile() && number != f.current.number {
				delete(f.ids, number)
			}
		}
	}
}

func (f *follower) readFile(ctx context.Context, file *logFile, isOver bool) error {
	f.intake.translator.bootTime = f.source.clock.BootTime()
	return file.read(ctx, isOver, f.take)
}

// take handles one line.
func (f *follower) take(line string, start, end record.Place) {
	f.source.health.Received.Add(1)
	f.source.health.Progress() // the first read may take minutes
	r, err := record.ParseLine(line)
	if err != nil {
		f.source.health.DecodeErrors.Add(1)
		f.intake.end = end
		return
	}
	if !f.isOwn(r.Node) {
		f.source.health.AddReason("records of the node " + strings.ToValidUTF8(r.Node, "?") + " are ignored; if it is this host, set name_format = hostname in auditd.conf")
		f.intake.end = end
		return
	}
	if f.isGap {
		f.isGap = false
		if r.ID.Millis > f.last.Millis {
			f.source.health.Lost.Add(1)
		}
	}
	f.intake.add(r, start, end, time.Now())
}

// isOwn reports whether a record is of this host. A daemon can collect those of other
// hosts.
func (f *follower) isOwn(node string) bool {
	return node == "" || node == f.host || strings.HasPrefix(node, f.host+".") || strings.HasPrefix(f.host, node+".")
}

// skipped returns the first file after the previous one if that is not the current
// file, or "". The current file was then truncated before it was read, and that file is
// the copy of it.
func (f *follower) skipped() (string, error) {
	files, err := logFiles(f.path)
	if err != nil {
		return "", err
	}
	first := ""
	for _, path := range files {
		info, err := os.Stat(path)
		switch {
		case err != nil: // it was just rotated
		case identify(info) == f.current.id:
			return first, nil
		case f.previous != nil && identify(info) == f.previous.id:
			first = ""
		case first == "":
			first = path
		}
	}
	return "", nil
}

// advance continues with the next file if the current one is complete, and reports
// whether it did.
func (f *follower) advance(ctx context.Context) (bool, error) {
	if info, err := os.Stat(f.path); err == nil && identify(info) == f.current.id {
		return false, nil
	}
	next, err := f.next()
	if next == "" || err != nil {
		return false, err
	}
	// The daemon writes to another file now, so the last line is complete.
	if err := f.readFile(ctx, f.current, true); err != nil || ctx.Err() != nil {
		return false, err
	}
	err = f.enter(next, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // it was just rotated; the next call finds it
	}
	return true, err
}

// goBack replaces the current file, of which nothing was read, by one that was skipped.
func (f *follower) goBack() error {
	path, err := f.skipped()
	if path == "" || err != nil {
		return err
	}
	file, err := openLogFile(path, f.current.number)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it was just rotated; the next call finds it
	}
	if err != nil {
		return err
	}
	f.current.close()
	f.current, f.ids[file.number] = file, file.id
	return nil
}

// next returns the file after the current one, or "" if no later file has content. As
// long as none has, the daemon may still write to the current file.
func (f *follower) next() (string, error) {
	files, err := logFiles(f.path)
	if err != nil {
		return "", err
	}
	own, err := f.current.file.Stat()
	if err != nil {
		return "", fmt.Errorf("stat the audit log: %w", err)
	}
	isBehind, next, written := false, "", false
	for _, path := range files {
		info, err := os.Stat(path)
		if err != nil {
			continue // it was just rotated
		}
		if identify(info) == f.current.id {
			isBehind, next, written = true, "", false
			continue
		}
		// If the current one was deleted, the files that were written to later follow it.
		if !isBehind && info.ModTime().Before(own.ModTime()) {
			continue
		}
		if next == "" {
			next = path
		}
		written = written || info.Size() > 0
	}
	if !written {
		return "", nil
	}
	return next, nil
}

// restart continues after the current file was truncated: in its copy if there is one,
// otherwise at the file's new beginning.
func (f *follower) restart() (bool, error) {
	copied, err := f.copyOfCurrent()
	if err != nil {
		return false, err
	}
	if copied != nil {
		f.current.close()
		f.current, f.ids[copied.number] = copied, copied.id
		return true, nil
	}
	err = f.enter(f.path, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // it is being rotated; the next call finds it
	}
	f.source.health.Lost.Add(1) // the number of lost records is unknown
	return true, err
}

// copyOfCurrent returns the file to which the current one was copied before it was
// truncated, as logrotate's copytruncate does, or nil. It has the current file's number
// and continues after the same line.
func (f *follower) copyOfCurrent() (*logFile, error) {
	files, err := logFiles(f.path)
	if err != nil {
		return nil, err
	}
	for _, path := range slices.Backward(files) { // the newest has it
		file, err := openLogFile(path, f.current.number)
		if err != nil {
			continue
		}
		if file.id != f.current.id && file.has(f.current.last, f.current.lastAt) {
			file.offset, file.last, file.lastAt = f.current.offset, f.current.last, f.current.lastAt
			return file, nil
		}
		file.close()
	}
	return nil, nil
}

// A position is a place in the daemon's log: an event that was emitted, and where the
// next Run continues.
type position struct {
	id     fileID    // of the file in which the event began when it was read
	offset int64     // of the event's beginning
	event  record.ID // the event
	after  int       // the next Run continues this many files later
	next   int64     // at this offset
}

// positionForm begins with a version.
const positionForm = "1 %d %d %d %d %d %d %d"

func (p position) String() string {
	return fmt.Sprintf(positionForm, p.id.device, p.id.inode, p.offset, p.event.Millis, p.event.Serial, p.after, p.next)
}

// parsePosition parses a position. ok is false if it is invalid.
func parsePosition(text string) (p position, ok bool) {
	n, err := fmt.Sscanf(text, positionForm, &p.id.device, &p.id.inode, &p.offset, &p.event.Millis, &p.event.Serial, &p.after, &p.next)
	return p, err == nil && n == 7 && p.offset >= 0 && p.after >= 0 && p.next >= 0
}

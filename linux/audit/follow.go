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
	"github.com/kmodquery/kmodquery/linux/logfile"
)

const (
	// logPoll is the time between two reads of the log.
	logPoll = 500 * time.Millisecond
	// logRetry is that time while a Sync waits for the rest of an event.
	logRetry = 20 * time.Millisecond
	// rotationTries is how often a read of the files' names may be overtaken by a rotation.
	rotationTries = 100
)

// follow runs the source on the audit daemon's log. forbidden is the error that keeps it
// from reading the kernel's records.
func (s *Source) follow(ctx context.Context, ready func(), emit func(kmodquery.Delivery), forbidden error) error {
	intake, err := s.intake(emit)
	if err != nil {
		return err
	}
	intake.isLog = true
	f, err := openFollower(s, intake)
	if err != nil {
		return fmt.Errorf("%w; nor can the audit daemon's log be read: %w", forbidden, err)
	}
	defer func() { f.current.Close() }()
	position, err := s.health.Resume(ctx, s.position)
	if err != nil {
		return err
	}
	if err := f.start(ctx, position); err != nil {
		return err
	}
	s.health.Started([]string{s.log},
		"it follows the audit daemon's log, which has only the calls that the daemon's rules record: "+source.OneLine(forbidden), nil)
	if err := f.read(ctx); err != nil {
		return err
	}
	intake.reportDenied()
	ready()
	return f.run(ctx)
}

// A follower reads the audit daemon's log through its rotations.
type follower struct {
	source *Source
	intake *intake
	host   string

	current *logfile.File // has the last line that was read; nil if none was
	// since is when the current file was last written to. Files that were written to
	// earlier come before it.
	since time.Time
	// gap is the last event of the Run before if the log does not have it, until a record
	// was read. Then later records may be gone too.
	gap *record.ID
}

// openFollower returns a follower. It fails if the log cannot be opened.
func openFollower(s *Source, intake *intake) (*follower, error) {
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("get the host's name: %w", err)
	}
	f := &follower{source: s, intake: intake, host: host}
	_, newest, err := f.after(func(*logfile.File) bool { return true })
	if err == nil && newest == nil {
		err = fmt.Errorf("%s: %w", s.log, fs.ErrNotExist)
	}
	newest.Close()
	return f, err
}

// start continues after the last event of the Run before, or begins with this boot.
func (f *follower) start(ctx context.Context, position string) error {
	last, ok := parsePosition(position)
	if !ok {
		f.since = f.intake.translator.bootTime
		if f.intake.since.Before(f.since) {
			f.intake.since = f.since.Add(-host.ClockStep)
		}
		return nil
	}
	newer, file, err := f.after(func(file *logfile.File) bool { return isAt(ctx, last, file) })
	closeAll(newer)
	if err != nil {
		return err
	}
	if file != nil {
		f.current, f.since = file, modTime(file)
		return nil
	}
	f.gap = &last.id
	f.intake.wasEmitted = func(id record.ID) bool {
		return id.Millis < last.id.Millis || id.Millis == last.id.Millis && id.Serial <= last.id.Serial
	}
	return nil
}

// isAt reports whether an event begins at its place in a file, and reads its first line.
// Without that line the assembler ignores the event's other records.
func isAt(ctx context.Context, event eventRef, file *logfile.File) (is bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	file.Offset = event.start
	err := file.ReadLines(ctx, true, func(line []byte, _ int64) {
		r, err := record.ParseLine(string(line))
		is = err == nil && r.Call() != "" && r.ID == event.id
		cancel() // after one line
	})
	return err == nil && is
}

func modTime(file *logfile.File) time.Time {
	info, err := file.Stat()
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

// run reads the lines that are written until ctx ends. It leaves an event that is
// incomplete then to the next Run.
func (f *follower) run(ctx context.Context) error {
	defer func() { f.intake.reportDenied() }()
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
	f.intake.translator.bootTime = f.source.clock.BootTime()
	before := f.current
	files, err := f.unread()
	for i, file := range files {
		if err == nil {
			// The daemon writes only to the newest file, so the others' last lines are
			// complete.
			err = f.readFile(ctx, file, i < len(files)-1)
		}
	}
	for _, file := range append(files, before) {
		if file != f.current {
			file.Close()
		}
	}
	return err
}

// readFile reads the new lines of a file. If there are any it becomes the current one.
func (f *follower) readFile(ctx context.Context, file *logfile.File, isComplete bool) error {
	written := modTime(file)
	return file.ReadLines(ctx, isComplete, func(line []byte, at int64) {
		f.current, f.since = file, written
		f.take(string(line), at)
	})
}

// take handles one line.
func (f *follower) take(line string, at int64) {
	health := f.source.health
	health.Received.Add(1)
	health.Progress() // the first read may take minutes
	r, err := record.ParseLine(line)
	if err != nil {
		health.DecodeErrors.Add(1)
		return
	}
	if !f.isOwn(r.Node) {
		health.AddReason("records of the node " + strings.ToValidUTF8(r.Node, "?") + " are ignored; if it is this host, set name_format = hostname in auditd.conf")
		return
	}
	if f.gap != nil {
		if r.ID.Millis > f.gap.Millis && r.ID.Time().After(f.intake.since) {
			health.Lost.Add(1)
		}
		f.gap = nil
	}
	f.intake.assembler.Add(r, at, time.Now())
}

// isOwn reports whether a record is of this host. A daemon can collect those of other
// hosts.
func (f *follower) isOwn(node string) bool {
	return node == "" || node == f.host || strings.HasPrefix(node, f.host+".") || strings.HasPrefix(f.host, node+".")
}

// unread returns the current file, wherever it is now, and the files with content after it,
// oldest first.
func (f *follower) unread() ([]*logfile.File, error) {
	if f.current != nil {
		files, own, err := f.after(f.current.IsIn)
		if err != nil {
			return nil, err
		}
		if own != nil {
			f.current.Replace(own)
			return slices.Insert(files, 0, f.current), nil
		}
		closeAll(files)
	}
	files, older, err := f.after(func(file *logfile.File) bool { return modTime(file).Before(f.since) })
	older.Close()
	switch {
	case err != nil || f.current == nil:
	case f.current.IsIn(f.current): // it was deleted
		files = slices.Insert(files, 0, f.current)
	default: // it was truncated
		f.source.health.Lost.Add(1) // the number of lost records is unknown
		f.current = nil
	}
	return files, err
}

// after returns the newest file for which isEnd is true, or nil, and the files with content
// after that one, oldest first.
func (f *follower) after(isEnd func(*logfile.File) bool) (files []*logfile.File, end *logfile.File, err error) {
	for range rotationTries {
		names, err := logFiles(f.source.log)
		if err != nil {
			return nil, nil, err
		}
		files, end, err = openAfter(names, isEnd)
		again, listErr := logFiles(f.source.log)
		err = errors.Join(err, listErr)
		if err == nil && slices.Equal(names, again) {
			return files, end, nil
		}
		closeAll(append(files, end))
		if err != nil {
			return nil, nil, err
		}
		// It was rotated meanwhile, and a file may have had none of the names.
	}
	return nil, nil, fmt.Errorf("list the audit log's files: they were renamed %d times meanwhile", rotationTries)
}

// openAfter does so for files of these names, newest last. It opens the newest first: a
// rotation gives a file the name of the next older one, so that none is missed. The caller
// closes the files, also after an error.
func openAfter(names []string, isEnd func(*logfile.File) bool) (files []*logfile.File, end *logfile.File, err error) {
	for _, name := range slices.Backward(names) {
		file, err := logfile.Open(name, record.MaxLine)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return files, nil, err
		}
		if isEnd(file) {
			end = file
			break
		}
		info, err := file.Stat()
		if err != nil || info.Size() == 0 || slices.ContainsFunc(files, func(o *logfile.File) bool { return o.Is(info) }) {
			file.Close()
			continue
		}
		files = append(files, file)
	}
	slices.Reverse(files)
	return files, end, nil
}

func closeAll(files []*logfile.File) {
	for _, file := range files {
		file.Close()
	}
}

// An eventRef identifies an event in the daemon's log. As a text it is the position after the
// event: events are emitted in the order in which they begin.
type eventRef struct {
	id    record.ID
	start int64 // where its first record begins in its file
}

// positionForm begins with a version.
const positionForm = "2 %d %d %d"

func (r eventRef) String() string {
	return fmt.Sprintf(positionForm, r.start, r.id.Millis, r.id.Serial)
}

// parsePosition parses a position. ok is false if it is invalid.
func parsePosition(text string) (r eventRef, ok bool) {
	n, err := fmt.Sscanf(text, positionForm, &r.start, &r.id.Millis, &r.id.Serial)
	if n == 0 { // version 1 had the file's device and inode too, and more after the event
		var device, inode uint64
		_, err = fmt.Sscanf(text, "1 %d %d %d %d %d", &device, &inode, &r.start, &r.id.Millis, &r.id.Serial)
	}
	return r, err == nil && r.start >= 0
}

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
	// logPoll is how often the log is looked at.
	logPoll = 500 * time.Millisecond
	// logRetry is how often it is while a Sync waits for the rest of an
	// event.
	logRetry = 20 * time.Millisecond
)

// follow runs the source on the audit daemon's log, because of what forbids it
// to listen to the kernel.
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
		"it follows the audit daemon's log, which has the calls that the daemon's rules have recorded and no others: "+source.OneLine(forbidden), nil)
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
	// previous is the file before the current one, still open so that no other
	// file takes its id; nil where there was none.
	previous *logFile
	// ids are the files, by number, in which events may begin of which nothing
	// was told yet.
	ids map[int]fileID
	// isGap says that the place where the last run ended is gone, so that what
	// came after it may be too.
	isGap bool
	told  record.ID // the last event of that run, where isGap
}

// openLog fails where there is no log.
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
		return nil, fmt.Errorf("ask for the host's name: %w", err)
	}
	f := &follower{path: path, host: host, intake: intake, source: source, ids: map[int]fileID{}}
	intake.position = f.position
	return f, nil
}

func (f *follower) close() {
	f.current.close()
	f.previous.close()
}

// start opens the file at the position where the last run ended, or the first
// one of this boot.
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
	f.isGap, f.told = true, p.told
	f.intake.isTold = func(id record.ID) bool {
		return id.Millis < p.told.Millis || id.Millis == p.told.Millis && id.Serial <= p.told.Serial
	}
	return f.begin(files, 0, 0)
}

// startAtBoot opens the first file that was written since the system started.
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

// begin opens one of the files, and the one before it.
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

// find returns which of the files has the event of a position. The one that had
// it comes first, though another may be a copy of it.
func (f *follower) find(files []string, p position) (at int, ok bool) {
	for i, path := range files {
		file, err := openLogFile(path, 0)
		if err != nil {
			continue
		}
		id, has := file.idAt(p.offset)
		file.close()
		if has && id == p.told {
			at, ok = i, true
			if file.id == p.id {
				return at, ok
			}
		}
	}
	return at, ok
}

// enter goes on in another file.
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

// position is the Position of an event, see intake.
func (f *follower) position(told emitted, next record.Place) string {
	return position{
		id: f.ids[told.start.File], offset: told.start.Offset, told: told.id,
		after: next.File - told.start.File, next: next.Offset,
	}.String()
}

// run reads the lines that are written until ctx ends. It leaves an event that is
// incomplete then to the next Run.
func (f *follower) run(ctx context.Context) error {
	defer func() { f.intake.reportDenied(f.intake.next()) }()
	sync := f.source.health.NewBarrier(grace)
	defer sync.Release()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		sync.Begin()
		if err := f.read(ctx); err != nil || ctx.Err() != nil {
			return err
		}
		now := time.Now()
		f.intake.expire(now)
		var settled time.Time
		if f.intake.idle() {
			settled = now
		}
		if sync.IsDue(settled) {
			f.intake.finish()
			sync.Release()
		}
		interval := logPoll
		if !sync.Began().IsZero() {
			interval = logRetry
		}
		timer.Reset(interval)
		select {
		case <-ctx.Done():
			return nil
		case <-f.source.health.Requests():
		case <-timer.C:
		}
	}
}

// read reads all that was written so far, in all files.
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

// take takes one line.
func (f *follower) take(line string, start, end record.Place) {
	f.source.health.Received.Add(1)
	r, err := record.ParseLine(line)
	if err != nil {
		f.source.health.DecodeErrors.Add(1)
		f.intake.end = end
		return
	}
	if !f.isOwn(r.Node) {
		f.source.health.AddReason("records of the node " + strings.ToValidUTF8(r.Node, "?") + " are not taken for this host's; set name_format = hostname in auditd.conf if they are")
		f.intake.end = end
		return
	}
	if f.isGap {
		f.isGap = false
		if r.ID.Millis > f.told.Millis {
			f.source.health.Lost.Add(1)
		}
	}
	f.intake.add(r, start, end, time.Now())
}

// isOwn reports whether a record is of this host. A daemon can gather those of
// others.
func (f *follower) isOwn(node string) bool {
	return node == "" || node == f.host || strings.HasPrefix(node, f.host+".") || strings.HasPrefix(f.host, node+".")
}

// skipped is the first file behind the previous one, where that is not the
// current one: the current one was cut before anything was read of it, and its
// content is in a copy. It is "" otherwise.
func (f *follower) skipped() (string, error) {
	files, err := logFiles(f.path)
	if err != nil {
		return "", err
	}
	first := ""
	for _, path := range files {
		info, err := os.Stat(path)
		switch {
		case err != nil: // it was rotated meanwhile
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

// advance goes on to the next file where the current one is over, and reports
// whether it did.
func (f *follower) advance(ctx context.Context) (bool, error) {
	if info, err := os.Stat(f.path); err == nil && identify(info) == f.current.id {
		return false, nil
	}
	next, err := f.next()
	if next == "" || err != nil {
		return false, err
	}
	// Whoever wrote it has another by now: the end of its last line is its own.
	if err := f.readFile(ctx, f.current, true); err != nil || ctx.Err() != nil {
		return false, err
	}
	err = f.enter(next, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // it was rotated meanwhile, and is looked for again
	}
	return true, err
}

// goBack takes a file that was skipped in place of the current one, of which
// nothing was read.
func (f *follower) goBack() error {
	path, err := f.skipped()
	if path == "" || err != nil {
		return err
	}
	file, err := openLogFile(path, f.current.number)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it was rotated meanwhile, and is looked for again
	}
	if err != nil {
		return err
	}
	f.current.close()
	f.current, f.ids[file.number] = file, file.id
	return nil
}

// next is the file behind the current one, or "" where nothing was written to
// one. As long as that is so the current one may still be written to.
func (f *follower) next() (string, error) {
	files, err := logFiles(f.path)
	if err != nil {
		return "", err
	}
	own, err := f.current.file.Stat()
	if err != nil {
		return "", fmt.Errorf("look at the audit log: %w", err)
	}
	isBehind, next, written := false, "", false
	for _, path := range files {
		info, err := os.Stat(path)
		if err != nil {
			continue // it was rotated meanwhile
		}
		if identify(info) == f.current.id {
			isBehind, next, written = true, "", false
			continue
		}
		// Where the current one was deleted, its like are those written later.
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

// restart goes on after the current file was cut: in its copy, where that has
// what was not yet read, else at the file's new beginning.
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
		return false, nil // it is being rotated, and is looked for again
	}
	f.source.health.Lost.Add(1) // or more, or nothing: nobody can know
	return true, err
}

// copyOfCurrent is the file that the current one's content was copied to before
// it was cut, as logrotate's copytruncate does, or nil. It takes the current
// one's place and number: what was read of one is in the other.
func (f *follower) copyOfCurrent() (*logFile, error) {
	files, err := logFiles(f.path)
	if err != nil {
		return nil, err
	}
	for _, path := range slices.Backward(files) { // the newest is it
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

// A position is how far the source has come in the daemon's log: an event
// that was told, and where to go on.
type position struct {
	id     fileID    // of the file in which the event begins, when it was read
	offset int64     // at which it begins
	told   record.ID // the event
	after  int       // how many files later to go on
	next   int64     // at which offset
}

// positionForm has a version, so that another form can follow.
const positionForm = "1 %d %d %d %d %d %d %d"

func (p position) String() string {
	return fmt.Sprintf(positionForm, p.id.device, p.id.inode, p.offset, p.told.Millis, p.told.Serial, p.after, p.next)
}

// parsePosition reads a position. It is not ok where there is none that
// could be used.
func parsePosition(text string) (p position, ok bool) {
	n, err := fmt.Sscanf(text, positionForm, &p.id.device, &p.id.inode, &p.offset, &p.told.Millis, &p.told.Serial, &p.after, &p.next)
	return p, err == nil && n == 7 && p.offset >= 0 && p.after >= 0 && p.next >= 0
}

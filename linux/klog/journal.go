//go:build linux

package klog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/internal/cmdout"
	"github.com/kmodquery/kmodquery/internal/progress"
	"github.com/kmodquery/kmodquery/internal/source"
	"github.com/kmodquery/kmodquery/linux/host"
	"github.com/kmodquery/kmodquery/linux/klog/printk"
)

const (
	// maxEntry bounds a line of journalctl's output. No entry about modules is longer.
	maxEntry = 1 << 20
	// maxEntries bounds the entries that were read and not handled yet.
	maxEntries = 64
	// maxStderr bounds what is kept of journalctl's error output.
	maxStderr = 2 << 10
)

// Journal is the source that follows systemd's journal with journalctl. It needs
// journalctl of systemd 236 or later, and root or the group systemd-journal.
type Journal struct {
	*logSource
	program  string
	timeouts journalTimeouts
	// hasLostCursor is set if journalctl rejected the stored cursor.
	hasLostCursor bool
}

// journalTimeouts are how long the source waits for journalctl.
type journalTimeouts struct {
	end      time.Duration // to print the journal's last entry
	sync     time.Duration // to reach the journal's end, during a Sync
	backfill time.Duration // to reach it, before Run calls ready
}

// NewJournal returns a source that reads nothing until Run. position returns the position
// of the source's last stored event, or "". It may be nil.
func NewJournal(position func(ctx context.Context) (string, error)) *Journal {
	return &Journal{
		logSource: newLogSource(kmodquery.SourceJournal, position), program: "journalctl",
		timeouts: journalTimeouts{end: 3 * time.Second, sync: 3 * time.Second, backfill: 30 * time.Second},
	}
}

// journalMatches select the messages of the kernel, and of programs that load modules.
var journalMatches = []string{
	"_TRANSPORT=kernel",
	"+", "_SYSTEMD_UNIT=systemd-modules-load.service", "_UID=0",
	"+", "_SYSTEMD_UNIT=kmod.service", "_UID=0",
	"+", "_SYSTEMD_UNIT=module-init-tools.service", "_UID=0",
	"+", "_EXE=/usr/bin/kmod", "_UID=0",
	"+", "_EXE=/bin/kmod", "_UID=0",
}

// journalHooks returns the matches as the sensors table shows them.
func journalHooks() []string {
	var hooks []string
	for match := range strings.SplitSeq(strings.Join(journalMatches, " "), " + ") {
		hooks = append(hooks, match+" (journalctl)")
	}
	return hooks
}

// journalFields are the requested fields, beside those that journalctl always prints.
var journalFields = []string{
	"MESSAGE", "SYSLOG_FACILITY", "_TRANSPORT", "_SOURCE_MONOTONIC_TIMESTAMP",
	"_PID", "_UID", "_GID", "_COMM", "_EXE", "_CMDLINE", "_SYSTEMD_UNIT", "_SYSTEMD_CGROUP",
}

// Run emits the events of the journal's messages about modules until ctx ends. It begins
// after the stored position, or with the boot. It calls ready once, when it has read all
// that the journal had. Neither Run nor Sync sees messages of the kernel that journald has
// not written yet. An error that matches kmodquery.ErrNotSupported means that this
// host cannot support the source before the next boot; other errors may pass.
func (s *Journal) Run(ctx context.Context, ready func(), emit func(kmodquery.Delivery)) (err error) {
	defer func() { s.health.Stopped(err) }()
	boot, stored, err := s.resume(ctx)
	if err != nil {
		return err
	}
	end, err := s.end(ctx)
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return err
	}
	r := journalReader{source: s, boot: boot, correlator: s.newCorrelator(emit), ready: ready, after: parseJournalPosition(stored)}
	if r.after != nil && dashed(r.after.bootID) != boot {
		// The clock may have been ahead.
		booted := time.Now().Add(-host.SinceBoot())
		r.after.realtime = min(r.after.realtime, time.Duration(booted.UnixNano()))
	}
	r.isOfBoot = r.after == nil
	return r.run(ctx, end)
}

// command returns a call of journalctl that is killed when this process ends.
func (s *Journal) command(ctx context.Context, arguments ...string) *exec.Cmd {
	arguments = append([]string{"--output=json", "--quiet", "--no-pager", "--all"}, arguments...)
	arguments = append(append(arguments, "--output-fields="+strings.Join(journalFields, ",")), journalMatches...)
	cmd := exec.CommandContext(ctx, s.program, arguments...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "SYSTEMD_COLORS=0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = time.Second
	return cmd
}

// end returns the last entry that matches, or nil if there is none.
func (s *Journal) end(ctx context.Context) (*journalEntry, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeouts.end)
	defer cancel()
	// The kernel sends the signal when this thread ends, not the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	out, stderr := cmdout.NewHead(maxEntry, nil), cmdout.NewHead(maxStderr, nil)
	cmd := s.command(ctx, "--lines=1")
	cmd.Stdout, cmd.Stderr = out, stderr
	err := cmd.Run()
	switch {
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return nil, &kmodquery.NotSupportedError{
			Missing: "there is no " + s.program + " on this host",
			Need:    "systemd, whose journal it reads",
		}
	case err != nil:
		return nil, fmt.Errorf("read the journal's end with %s: %w%s", s.program, err, stderr.Said())
	}
	end := out.String()
	if end == "" {
		if _, err := os.Stat(devKmsg); err != nil || stderr.String() != "" {
			return nil, &kmodquery.NotSupportedError{
				Missing: "the journal shows no message of the kernel" + stderr.Said(),
				Need:    "root or the group systemd-journal, and a journald that reads the kernel's log (ReadKMsg=yes in journald.conf)",
			}
		}
		return nil, nil
	}
	e, err := parseJournalEntry([]byte(end))
	if err != nil {
		return nil, fmt.Errorf("parse the journal's end: %w", err)
	}
	return &e, nil
}

// askEnd returns a channel that receives the journal's end, or nil if there is none or
// journalctl fails.
func (s *Journal) askEnd(ctx context.Context) chan *journalEntry {
	answer := make(chan *journalEntry, 1)
	go func() {
		end, _ := s.end(ctx) // if it fails the journal, or this Run, has ended
		answer <- end
	}()
	return answer
}

// A journalReader is the state of one Run.
type journalReader struct {
	source     *Journal
	boot       string
	correlator *correlator
	ready      func() // nil once called

	isOfBoot bool             // journalctl prints only entries of this boot
	after    *journalPosition // where the Run before ended; nil once it was passed
	reached  journalPosition  // of the last entry that was read
}

// run reads what journalctl prints. end is the journal's present end.
func (r *journalReader) run(ctx context.Context, end *journalEntry) error {
	s := r.source
	running, cancel := context.WithCancel(ctx)
	defer cancel()
	// The kernel sends Pdeathsig when this thread ends, not the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	stderr := cmdout.NewHead(maxStderr, nil)
	cmd := s.command(running, append([]string{"--follow", "--no-tail"}, r.from()...)...)
	cmd.Stderr = stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("create a pipe: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", s.program, err)
	}
	s.health.Started(journalHooks(), "", nil)
	entries := make(chan []byte, maxEntries)
	go func() {
		defer close(entries)
		// Bytes after the last line feed are no entry.
		cmdout.Lines(running, stdout, maxEntry, entries, func() { s.health.DecodeErrors.Add(1) })
	}()
	r.follow(ctx, entries, end)
	r.correlator.flush()

	// If it closed its output it is about to exit. If ctx ended it is killed already.
	kill := time.AfterFunc(time.Second, cancel)
	defer kill.Stop()
	for range entries { // until the goroutine ends
		continue
	}
	err = cmd.Wait()
	if ctx.Err() != nil {
		return nil
	}
	s.hasLostCursor = r.after != nil && strings.Contains(stderr.Said(), "cursor")
	if err == nil {
		err = errors.New("exit status 0")
	}
	return fmt.Errorf("%s exited unexpectedly: %w%s", s.program, err, stderr.Said())
}

// from returns the option for the first entry: the one of the position, or the one next
// to it if that is gone.
func (r *journalReader) from() []string {
	switch {
	case r.isOfBoot, r.source.hasLostCursor && dashed(r.after.bootID) == r.boot: // the clock may have been set back
		return []string{"--boot"}
	case r.source.hasLostCursor:
		return []string{"--since=@" + strconv.FormatInt(int64(r.after.realtime/time.Second), 10)}
	}
	return []string{"--cursor=" + r.after.cursor}
}

// follow reads entries until ctx ends or journalctl closes its output. A Sync ends when
// the entry was read that is the journal's last at its beginning.
func (r *journalReader) follow(ctx context.Context, entries <-chan []byte, end *journalEntry) {
	health, c := r.source.health, r.correlator
	sync := health.NewBarrier(r.source.timeouts.sync)
	defer sync.Release()
	readyBy := time.Now().Add(r.source.timeouts.backfill)
	isKnown := true               // end is the journal's last entry at the beginning of the round
	var answer chan *journalEntry // receives it if it was asked for
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		health.Progress()
		if r.ready == nil {
			sync.Begin()
		}
		if !sync.Began().IsZero() && !isKnown && answer == nil {
			answer = r.source.askEnd(ctx)
		}
		var quiet time.Time
		if isKnown && r.isAt(end) {
			quiet = c.quiet()
		}
		due := sync.Due(quiet)
		if r.ready != nil {
			due = source.Earliest(quiet, readyBy)
		}
		if !due.IsZero() && !time.Now().Before(due) {
			c.flush()
			if r.ready != nil {
				r.ready()
				r.ready = nil
			}
			sync.Release()
			isKnown, answer = false, nil
			continue
		}
		timer.Reset(time.Until(source.Earliest(c.next(), due, time.Now().Add(progress.Interval))))
		select {
		case <-ctx.Done():
			return
		case entry, ok := <-entries:
			if !ok {
				return
			}
			r.take(entry)
		case end = <-answer:
			isKnown, answer = true, nil
		case <-health.Requests():
		case <-timer.C:
		}
		c.expire(time.Now())
	}
}

// isAt reports whether an entry was read by this Run or one before, or is not going to
// be read: journald may not run in this boot.
func (r *journalReader) isAt(end *journalEntry) bool {
	return end == nil || r.isOfBoot && dashed(end.bootID) != r.boot || r.after != nil && r.after.covers(&end.journalPosition) || r.reached.cursor != "" && r.reached.covers(&end.journalPosition)
}

// take handles a line of journalctl's.
func (r *journalReader) take(b []byte) {
	e, err := parseJournalEntry(b)
	if err != nil {
		r.source.health.Received.Add(1)
		r.source.health.DecodeErrors.Add(1)
		return
	}
	if r.after != nil {
		if r.after.covers(&e.journalPosition) {
			if e.cursor == r.after.cursor {
				r.after = nil
				r.reached = e.journalPosition
			}
			return
		}
		// The entry is gone, and entries after it may be gone too.
		r.source.health.SetReason("the journal may have dropped entries before they were read; increase SystemMaxUse in journald.conf")
		r.after = nil
	}
	r.source.health.Received.Add(1)
	r.reached = e.journalPosition
	if statement, ok := e.statement(); ok {
		r.correlator.add(r.line(&e, statement, string(b)), time.Now())
	}
	r.correlator.position = e.String()
}

func (r *journalReader) line(e *journalEntry, statement printk.Statement, raw string) line {
	l := line{
		statement: statement, raw: raw, text: e.fields["MESSAGE"], at: e.monotonic,
		time: e.time(), bootID: dashed(e.bootID), id: e.cursor, loader: e.loader(),
	}
	if at, err := e.micros("_SOURCE_MONOTONIC_TIMESTAMP"); err == nil && l.loader == nil {
		l.at = at
	}
	if l.bootID == r.boot {
		_, l.uptime = printkTime(l.at)
	}
	return l
}

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
	"github.com/kmodquery/kmodquery/internal/source"
	"github.com/kmodquery/kmodquery/linux/klog/printk"
)

const (
	// maxEntry bounds a line of journalctl's. A longer one is none of those
	// that are looked for.
	maxEntry = 1 << 20
	// maxEntries bounds the entries that were read and not looked at.
	maxEntries = 64
	// syncTimeout is how long a Sync waits for journalctl to come to the
	// journal's present end.
	syncTimeout = 3 * time.Second
	// backfillTimeout is how long Run waits for it before it is ready.
	backfillTimeout = 30 * time.Second
	// maxStderr bounds what is kept of journalctl's errors.
	maxStderr = 2 << 10
)

// Journal is the source that has journalctl follow systemd's journal. It needs
// journalctl from systemd 236 on, and root or the group systemd-journal.
type Journal struct {
	*logSource
	options JournalOptions
	// hasLostCursor says that journalctl does not take the stored cursor.
	hasLostCursor bool
}

// JournalOptions say how to read the journal, and how far it was read.
type JournalOptions struct {
	// Command is journalctl when empty. More arguments are added.
	Command []string
	// Position returns the position of the last event that was stored, or "".
	Position func(ctx context.Context) (string, error)
}

// NewJournal returns a source that reads nothing until Run.
func NewJournal(o JournalOptions) *Journal {
	if len(o.Command) == 0 {
		o.Command = []string{"journalctl"}
	}
	return &Journal{options: o, logSource: newLogSource(kmodquery.SourceJournal, o.Position)}
}

// journalMatches select, beside what the kernel says, what the programs say that
// load modules.
var journalMatches = []string{
	"_TRANSPORT=kernel",
	"+", "_SYSTEMD_UNIT=systemd-modules-load.service", "_UID=0",
	"+", "_SYSTEMD_UNIT=kmod.service", "_UID=0",
	"+", "_SYSTEMD_UNIT=module-init-tools.service", "_UID=0",
	"+", "_EXE=/usr/bin/kmod", "_UID=0",
	"+", "_EXE=/bin/kmod", "_UID=0",
}

// journalHooks are the matches as the sensors table shows them.
func journalHooks() []string {
	var hooks []string
	for match := range strings.SplitSeq(strings.Join(journalMatches, " "), " + ") {
		hooks = append(hooks, match+" (journalctl)")
	}
	return hooks
}

// journalFields are the fields that are asked for, beside those that journalctl
// always gives.
var journalFields = []string{
	"MESSAGE", "SYSLOG_FACILITY", "_TRANSPORT", "_SOURCE_MONOTONIC_TIMESTAMP",
	"_PID", "_UID", "_GID", "_COMM", "_EXE", "_CMDLINE", "_SYSTEMD_UNIT", "_SYSTEMD_CGROUP",
}

// Run emits what the journal says of modules until ctx ends, beginning with what
// it says since the position that was stored, or since the kernel booted. It
// calls ready once, when it has read all that the journal had. What the kernel
// said and journald did not write yet is not seen, by Sync either.
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
	return r.run(ctx, end)
}

// command is a call of journalctl that dies with this process.
func (s *Journal) command(ctx context.Context, arguments ...string) *exec.Cmd {
	arguments = append([]string{"--output=json", "--quiet", "--no-pager", "--all"}, arguments...)
	arguments = append(arguments, "--output-fields="+strings.Join(journalFields, ","))
	arguments = append(append(s.options.Command[1:len(s.options.Command):len(s.options.Command)], arguments...), journalMatches...)
	cmd := exec.CommandContext(ctx, s.options.Command[0], arguments...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "SYSTEMD_COLORS=0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = time.Second
	return cmd
}

// end is the last entry of the journal that is looked at, nil where it has none.
func (s *Journal) end(ctx context.Context) (*journalEntry, error) {
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	// The kernel sends the signal when this thread ends, not the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	out, complaint := cmdout.NewHead(maxEntry, nil), cmdout.NewHead(maxStderr, nil)
	cmd := s.command(ctx, "--lines=1")
	cmd.Stdout, cmd.Stderr = out, complaint
	err := cmd.Run()
	switch {
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return nil, &kmodquery.NotSupportedError{
			Missing: "there is no " + s.options.Command[0] + " on this host",
			Need:    "systemd, whose journal it reads",
		}
	case err != nil:
		return nil, fmt.Errorf("ask %s for the journal's end: %w%s", s.options.Command[0], err, complaint.Said())
	}
	end := out.String()
	if end == "" {
		if _, err := os.Stat(devKmsg); err != nil || complaint.String() != "" {
			return nil, &kmodquery.NotSupportedError{
				Missing: "the journal shows no message of the kernel" + complaint.Said(),
				Need:    "root or the group systemd-journal, and a journald that reads the kernel's log (ReadKMsg=yes in journald.conf)",
			}
		}
		return nil, nil
	}
	e, err := parseJournalEntry([]byte(end))
	if err != nil {
		return nil, fmt.Errorf("read the journal's end: %w", err)
	}
	return &e, nil
}

// askEnd returns a channel that receives the journal's end, or nil if there is none or
// it cannot be had.
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

	after   *journalPosition // where the Run before ended; nil once it was passed
	reached journalEntry     // the last entry that was read
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
		return fmt.Errorf("start %s: %w", s.options.Command[0], err)
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
	return fmt.Errorf("%s exited unexpectedly: %w%s", s.options.Command[0], err, stderr.Said())
}

// from is where journalctl begins: with the entry that the position names, which
// journalctl finds the neighbours of when it is gone.
func (r *journalReader) from() []string {
	switch {
	case r.after == nil:
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
	sync := health.NewBarrier(syncTimeout)
	defer sync.Release()
	readyBy := time.Now().Add(backfillTimeout)
	isKnown := true               // end is the journal's last entry at the beginning of the round
	var answer chan *journalEntry // receives it if it was asked for
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		if r.ready == nil {
			sync.Begin()
		}
		if !sync.Began().IsZero() && !isKnown && answer == nil {
			answer = r.source.askEnd(ctx)
		}
		var settled time.Time
		if isKnown && r.isAt(end) {
			settled = c.settled()
		}
		due := sync.Due(settled)
		if r.ready != nil {
			due = source.Earliest(settled, readyBy)
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
		timer.Reset(time.Until(source.Earliest(c.next(), due, time.Now().Add(wakeInterval))))
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

// isAt reports whether an entry was read, or told of before.
func (r *journalReader) isAt(end *journalEntry) bool {
	if end == nil || r.after != nil && r.after.isBehind(end) {
		return true
	}
	reached := journalPosition{bootID: r.reached.bootID, monotonic: r.reached.monotonic, realtime: r.reached.realtime, cursor: r.reached.cursor}
	return r.reached.cursor != "" && reached.isBehind(end)
}

// take reads one of journalctl's lines.
func (r *journalReader) take(b []byte) {
	e, err := parseJournalEntry(b)
	if err != nil {
		r.source.health.Received.Add(1)
		r.source.health.DecodeErrors.Add(1)
		return
	}
	if r.after != nil {
		if r.after.isBehind(&e) {
			if e.cursor == r.after.cursor {
				r.after = nil
				r.reached = e
			}
			return
		}
		// The entry itself is gone, and with it maybe some that followed it.
		r.source.health.SetReason("the journal dropped entries before they were read, or around those that were; set SystemMaxUse in journald.conf higher")
		r.after = nil
	}
	r.source.health.Received.Add(1)
	r.reached = e
	position := e.position()
	if says, ok := e.statement(); ok {
		r.correlator.add(r.line(&e, says, string(b)), time.Now())
	}
	r.correlator.setPosition(position)
}

func (r *journalReader) line(e *journalEntry, says printk.Statement, raw string) line {
	l := line{
		statement: says, raw: raw, text: e.fields["MESSAGE"], at: e.monotonic,
		time: e.time(), bootID: dashed(e.bootID), id: e.cursor, loader: e.loader(),
	}
	if said, err := e.micros("_SOURCE_MONOTONIC_TIMESTAMP"); err == nil && l.loader == nil {
		l.at = said
	}
	if l.bootID == r.boot {
		_, l.uptime = printkTime(l.at)
	}
	return l
}

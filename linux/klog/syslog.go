//go:build linux

package klog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/linux/host"
	"github.com/kmodquery/kmodquery/linux/klog/printk"
	"github.com/kmodquery/kmodquery/linux/logfile"
)

const (
	// syslogInterval is the time between two reads of the files.
	syslogInterval = 500 * time.Millisecond
	// maxMessages bounds the kernel's messages that are kept to be compared with the
	// files' lines.
	maxMessages = 1024
)

// syslogFiles are the files that distributions write the kernel's messages to. At least one
// must exist.
var syslogFiles = []string{"/var/log/syslog", "/var/log/messages", "/var/log/kern.log"}

// Syslog is the source that follows the files of a syslog daemon. Any user can write a
// line to them that looks like the kernel's, so the source uses a line only if the
// kernel's own log, /dev/kmsg, has the same message, and once, however many files have
// it. It needs what [Kmsg] needs, and shows that the daemon received the message too.
//
// Its position is the highest sequence number in /dev/kmsg of a message that was
// emitted. Run reads the files from their beginning and skips the messages up to the
// stored position.
type Syslog struct {
	*logSource
	files []string
	kmsg  string
	open  func(path string) (*kmsgLog, error)
}

// NewSyslog returns a source that reads nothing until Run. position returns the position of
// the source's last stored event, or "". It may be nil.
func NewSyslog(position func(ctx context.Context) (string, error)) *Syslog {
	return &Syslog{logSource: newLogSource(kmodquery.SourceSyslog, position), files: syslogFiles, kmsg: devKmsg, open: openKmsg}
}

// Run emits the events of the kernel's messages about modules that are in the files
// and in /dev/kmsg, until ctx ends. It begins after the stored position, or with the
// oldest message that /dev/kmsg has. It calls ready once, when it has read the files.
// Neither Run nor Sync sees messages that the daemon has not written yet. An error
// that matches kmodquery.ErrNotSupported means that this host cannot support the source
// before the next boot; other errors may pass.
func (s *Syslog) Run(ctx context.Context, ready func(), emit func(kmodquery.Delivery)) (err error) {
	defer func() { s.health.Stopped(err) }()
	boot, stored, err := s.resume(ctx)
	if err != nil {
		return err
	}
	files, err := s.readable()
	if err != nil {
		return err
	}
	log, err := s.open(s.kmsg)
	if err != nil {
		var missing *kmodquery.NotSupportedError
		if errors.As(err, &missing) {
			return &kmodquery.NotSupportedError{
				Missing: missing.Missing + ", with which the lines of " + files[0] + " must be compared, because every user can write such lines",
				Need:    missing.Need,
			}
		}
		return err
	}
	defer log.close()
	s.health.Started(files, "", nil)

	r := syslogReader{source: s, boot: boot, correlator: s.newCorrelator(emit), log: log}
	if next, ok := nextSequence(stored, boot); ok {
		r.emitted = next - 1
	}
	booted := time.Now().Add(-host.SinceBoot())
	for _, path := range s.files {
		t := &tail{path: path, since: booted, lost: func() { s.health.Lost.Add(1) }}
		defer t.close()
		r.tails = append(r.tails, t)
	}
	return s.serve(ctx, ready, r.correlator, func() (bool, error) { return true, r.read(ctx) }, func(deadline time.Time) error {
		timer := time.NewTimer(min(syslogInterval, time.Until(deadline)))
		defer timer.Stop()
		select {
		case <-ctx.Done():
		case <-s.health.Requests():
		case <-timer.C:
		}
		return nil
	})
}

// readable returns the files that exist.
func (s *Syslog) readable() ([]string, error) {
	var files []string
	var denied error
	for _, path := range s.files {
		file, err := logfile.Open(path, maxLogLine)
		switch {
		case err == nil:
			file.Close()
			files = append(files, path)
		case errors.Is(err, fs.ErrPermission):
			denied = err
		}
	}
	switch {
	case len(files) > 0:
		return files, nil
	case denied != nil:
		return nil, fmt.Errorf("%w; run as root, or with the group adm", denied)
	}
	return nil, &kmodquery.NotSupportedError{
		Missing: "there is no " + strings.Join(s.files, ", "),
		Need:    "a syslog daemon that writes the kernel's messages to one of them",
	}
}

// A syslogReader is the state of one Run.
type syslogReader struct {
	source     *Syslog
	boot       string
	correlator *correlator
	log        *kmsgLog
	tails      []*tail
	messages   []*message // oldest first
	emitted    uint64     // the highest sequence number of a message that was emitted, or 0
}

// A message is one of the kernel's about modules.
type message struct {
	record    printk.Record
	statement printk.Statement
	isMatched bool
	text      string // the first line that repeats it, until it is emitted
	isEmitted bool
}

// read reads the new lines of all files, and adds the messages that they repeat to the
// correlator, in the order in which the kernel logged them: a position stands for all
// messages before it.
func (r *syslogReader) read(ctx context.Context) error {
	isThere := false
	err := r.log.drain(r.source.health, r.keep)
	for _, t := range r.tails {
		failed := t.read(ctx, func(text []byte, isNew bool) {
			r.source.health.Received.Add(1)
			r.source.health.Progress() // the first read may take minutes
			if err == nil {
				err = r.take(text, isNew)
			}
		})
		err = errors.Join(err, failed)
		isThere = isThere || t.isThere
	}
	if err != nil {
		return err
	}
	for _, m := range r.messages {
		r.emit(m)
	}
	reason := ""
	if !isThere {
		reason = "none of the files can be read now; the source continues when one can"
	}
	r.source.health.SetReason(reason)
	return nil
}

// take looks for the message that a line repeats.
func (r *syslogReader) take(text []byte, isNew bool) error {
	if len(text) > maxLogLine || !bytes.Contains(text, []byte("kernel")) {
		return nil
	}
	l, ok := parseSyslogLine(text)
	if !ok {
		return nil
	}
	if _, ok := printk.Kernel(l.text); !ok {
		return nil
	}
	// The kernel logged the message before the line was written, but maybe after the
	// last drain.
	if err := r.log.drain(r.source.health, r.keep); err != nil {
		return err
	}
	for n := 0; n < l.count; n++ {
		m := r.find(l)
		if m == nil {
			if n == 0 && isNew {
				r.source.health.DecodeErrors.Add(1) // it is not the kernel's
			}
			break
		}
		if m.isMatched {
			break
		}
		m.isMatched, m.text = true, string(text)
	}
	return nil
}

// keep keeps a record of the kernel's log if it is about modules.
func (r *syslogReader) keep(record printk.Record, err error) {
	if err != nil || !record.IsFromKernel() {
		return
	}
	if statement, ok := printk.Kernel(record.Text); ok {
		r.messages = append(r.messages, &message{record: record, statement: statement, isEmitted: record.Sequence <= r.emitted})
		if len(r.messages) > maxMessages {
			r.emit(r.messages[0])
			r.messages = r.messages[1:]
		}
	}
}

// find returns the message that a line repeats, or nil. A line without a time repeats
// the oldest message of its text that no line has repeated, or else any.
func (r *syslogReader) find(l syslogLine) *message {
	at := slices.IndexFunc(r.messages, func(m *message) bool {
		return m.record.Text == l.text && (m.record.Time == l.at || l.at < 0 && !m.isMatched)
	})
	if at < 0 && l.at < 0 {
		at = slices.IndexFunc(r.messages, func(m *message) bool { return m.record.Text == l.text })
	}
	if at < 0 {
		return nil
	}
	return r.messages[at]
}

// emit adds a message to the correlator if a line has repeated it.
func (r *syslogReader) emit(m *message) {
	if m.isEmitted || !m.isMatched {
		return
	}
	m.isEmitted = true
	r.emitted = max(r.emitted, m.record.Sequence)
	l := newLine(m.record, m.statement, r.boot)
	l.raw, m.text = m.text, ""
	r.correlator.add(l, time.Now())
	r.correlator.position = sequencePosition(r.boot, r.emitted)
}

// A syslogLine is a line of a log file in the form of the kernel's. Any user can write
// one, with logger(1).
type syslogLine struct {
	text  string
	at    time.Duration // of printk's clock; -1 if the line has no time of printk's
	count int           // of messages that it stands for
}

// kernelTag is the tag of the kernel's messages, after a time and a host, which
// rsyslog, syslog-ng, sysklogd and busybox each write in their own way, and the prefix
// that printk adds to a text: the level, the time and, from 5.1 on some kernels, the
// caller. In RFC 5424 the tag has no colon, and two dashes and structured data follow it.
var kernelTag = regexp.MustCompile(`^(?:[^\x00-\x1f]{0,200}? )?kernel(?:(?:\[[0-9]*\])?:| - - (?:-|\[[^\x00-\x1f]{0,500}?\])) ` +
	`(?: ?(?:<[0-9]{1,3}>)?\[ *([0-9]{1,10})\.([0-9]{6})\](?: ?\[ *[TC][0-9]+\])? )?(.*)$`)

// repeated is what rsyslog writes for messages that are equal to the one before
// ($RepeatedMsgReduction).
var repeated = regexp.MustCompile(`^message repeated ([0-9]{1,4}) times: \[ (.*)\]$`)

// parseSyslogLine parses a line of a syslog daemon's file.
func parseSyslogLine(b []byte) (syslogLine, bool) {
	found := kernelTag.FindSubmatch(b)
	if found == nil {
		return syslogLine{}, false
	}
	l := syslogLine{text: string(found[3]), at: -1, count: 1}
	// The numbers are digits, and few enough.
	if len(found[1]) > 0 {
		seconds, _ := strconv.ParseInt(string(found[1]), 10, 64)
		micros, _ := strconv.ParseInt(string(found[2]), 10, 64)
		l.at = time.Duration(seconds)*time.Second + time.Duration(micros)*time.Microsecond
	}
	if found := repeated.FindStringSubmatch(l.text); found != nil {
		l.count, _ = strconv.Atoi(found[1])
		l.text = found[2]
	}
	return l, true
}

//go:build linux

package klog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/linux/host"
	"github.com/kmodquery/kmodquery/linux/klog/printk"
)

const (
	// syslogPause is the time between two looks at the files.
	syslogPause = 500 * time.Millisecond
	// maxRing bounds the kernel's messages that wait for a file to have them.
	maxRing = 1024
)

// syslogFiles are where distributions have the kernel's messages written.
var syslogFiles = []string{"/var/log/syslog", "/var/log/messages", "/var/log/kern.log"}

// Syslog is the source that follows the files of a syslog daemon. Any user can
// have a line written to them that looks like the kernel's. So a line counts
// only where the kernel's own log, /dev/kmsg, has the same message, and once,
// however many files have it: this source needs what [Kmsg] needs, and shows
// that the daemon, too, was told.
type Syslog struct {
	*logSource
	options SyslogOptions
}

// SyslogOptions say where the files are, and how far they were read.
type SyslogOptions struct {
	// Files are /var/log/syslog, /var/log/messages and /var/log/kern.log when
	// empty. One of them must be there.
	Files []string
	// Kmsg is /dev/kmsg when empty.
	Kmsg string
	// Position returns the position of the last event that was stored, or "".
	Position func(ctx context.Context) (string, error)
}

// NewSyslog returns a source that reads nothing until Run.
func NewSyslog(o SyslogOptions) *Syslog {
	if len(o.Files) == 0 {
		o.Files = syslogFiles
	}
	if o.Kmsg == "" {
		o.Kmsg = devKmsg
	}
	return &Syslog{options: o, logSource: newLogSource(kmodquery.SourceSyslog, o.Position)}
}

// Run emits what the files say that the kernel said of modules, until ctx ends,
// beginning with what it said since the position that was stored, or since it
// booted. It calls ready once, when it has read all that there was. What the
// daemon did not write yet is not seen, by Sync either, and neither is what
// /dev/kmsg no longer had when Run began.
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
	log, err := openKmsg(s.options.Kmsg)
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
	r := syslogReader{source: s, boot: boot, correlator: s.newCorrelator(emit)}
	r.ring = ring{source: s, log: log}
	defer func() {
		for _, f := range r.files {
			f.close()
		}
	}()
	r.resume(stored)
	s.health.Started(files, "", nil)
	return r.run(ctx, ready)
}

// readable are those of the files that are there.
func (s *Syslog) readable() ([]string, error) {
	var files []string
	var denied error
	for _, path := range s.options.Files {
		file, err := openSegment(path)
		switch {
		case err == nil:
			file.file.Close()
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
		Missing: "there is no " + strings.Join(s.options.Files, ", "),
		Need:    "a syslog daemon that writes the kernel's messages to one of them",
	}
}

// A syslogReader is one Run's reading.
type syslogReader struct {
	source     *Syslog
	boot       string
	correlator *correlator
	clock      printkClock
	ring       ring
	files      []*follower
	places     []filePlace // behind the last line of each file that was told of

	isLive bool // what stood in the files before, of other boots too, was read
}

// resume begins where a position was noted: which of the kernel's messages was
// the last that was told of, and how far each file was read.
func (r *syslogReader) resume(position string) {
	parts := strings.Fields(position)
	isSameBoot := len(parts) >= 2 && parts[0] == r.boot
	if isSameBoot {
		r.ring.told, _ = strconv.ParseUint(parts[1], 10, 63)
	}
	booted := time.Now().Add(-host.SinceBoot())
	r.places = make([]filePlace, len(r.source.options.Files))
	for i, path := range r.source.options.Files {
		if isSameBoot && len(parts) == 2+len(r.places) {
			r.places[i], _ = parseFilePlace(parts[2+i])
		}
		r.files = append(r.files, newFollower(path, r.places[i], booted, func() { r.source.health.Lost.Add(1) }))
	}
}

func (r *syslogReader) position() string {
	var b strings.Builder
	b.WriteString(r.boot + " " + strconv.FormatUint(r.ring.told, 10))
	for _, place := range r.places {
		b.WriteString(" " + place.String())
	}
	return b.String()
}

func (r *syslogReader) run(ctx context.Context, ready func()) error {
	var sync logSync
	defer sync.answer()
	for {
		sync.take(ctx, r.source.health)
		if err := r.read(); err != nil {
			return err
		}
		if ready != nil {
			r.correlator.flush()
			ready()
			ready, r.isLive = nil, true
		}
		now := time.Now()
		r.correlator.expire(now)
		pause := syslogPause
		if sync.isAsked() {
			pause = time.Until(r.correlator.settled(sync.asked))
			if pause <= 0 {
				r.correlator.flush()
				if sync.isLast {
					return nil
				}
				sync.answer()
				pause = syslogPause
			}
		}
		done := ctx.Done()
		if sync.isLast {
			done = nil
		}
		timer := time.NewTimer(pause)
		select {
		case <-done:
		case <-r.source.health.Requests():
		case <-timer.C:
		}
		timer.Stop()
	}
}

// A candidate is a line that says something of modules, if the kernel said it.
type candidate struct {
	syslogLine
	raw   string
	file  int
	place filePlace
}

// maxCandidates bounds the lines that are compared with the kernel's log at once.
const maxCandidates = 256

// read takes what is new in the files and compares it with the kernel's log.
func (r *syslogReader) read() error {
	defer r.lookForFiles()
	for i, f := range r.files {
		var found []candidate
		var failed error
		compare := func() {
			// After the files: what stands in one was said before.
			if err := r.ring.drain(); err != nil && failed == nil {
				failed = err
			}
			for _, c := range found {
				r.take(c)
			}
			found = found[:0]
		}
		err := f.read(func(b []byte, place func() filePlace) {
			r.source.health.Received.Add(1)
			if !bytes.Contains(b, []byte(" kernel")) {
				return
			}
			line, ok := parseSyslogLine(b)
			if !ok {
				return
			}
			if _, ok := printk.Kernel(line.text); !ok {
				return
			}
			found = append(found, candidate{syslogLine: line, raw: string(b), file: i, place: place()})
			if len(found) == maxCandidates {
				compare()
			}
		})
		compare()
		if err := errors.Join(err, failed); err != nil && !errors.Is(err, os.ErrPermission) {
			return err
		}
	}
	return nil
}

// lookForFiles says so when every file is gone, which may be a moment of their
// rotation.
func (r *syslogReader) lookForFiles() {
	reason := "none of the files can be read now; it goes on when one can"
	for _, f := range r.files {
		if f.isThere() {
			reason = ""
		}
	}
	r.source.health.SetReason(reason)
}

// take tells of a line, if the kernel said it and no other line told of it.
func (r *syslogReader) take(c candidate) {
	said, isFirst := r.ring.claim(c.syslogLine)
	if said == nil {
		if r.isLive {
			r.source.health.DecodeErrors.Add(1) // somebody else wrote it
		}
		return
	}
	if isFirst {
		l := r.clock.newLine(said.record, said.says, r.boot)
		l.raw = c.raw
		r.correlator.add(l, time.Now())
	}
	r.places[c.file] = c.place
	r.correlator.setPosition(r.position())
}

// A ring is what the kernel itself said of modules, for as long as it waits for
// a file to have it too.
type ring struct {
	source *Syslog
	log    *kmsgLog
	said   []*ringMessage // oldest first
	told   uint64         // sequence number of the last message that a line told of
	next   uint64
}

type ringMessage struct {
	record    printk.Record
	says      printk.Statement
	isClaimed bool
}

// drain reads on to the end of the kernel's log.
func (r *ring) drain() error {
	for {
		b, err := r.log.read()
		switch {
		case errors.Is(err, unix.EAGAIN):
			return nil
		case errors.Is(err, unix.EPIPE), errors.Is(err, unix.EINVAL):
			continue // the next record's number says how many are gone
		case err != nil:
			return fmt.Errorf("read %s: %w", r.source.options.Kmsg, err)
		}
		record, err := printk.ParseRecord(b)
		if err != nil {
			continue
		}
		if r.next != 0 && record.Sequence > r.next {
			r.source.health.Lost.Add(int64(min(record.Sequence-r.next, 1<<40)))
		}
		r.next = record.Sequence + 1
		if !record.IsFromKernel() {
			continue
		}
		if says, ok := printk.Kernel(record.Text); ok {
			isTold := r.told != 0 && record.Sequence <= r.told
			r.said = append(r.said, &ringMessage{record, says, isTold})
			r.said = r.said[max(len(r.said)-maxRing, 0):]
		}
	}
}

// claim finds the message that a line repeats, nil where the kernel did not say
// it, and whether this line is the first to do so. Lines without a time repeat
// the oldest message of their text that none has repeated.
func (r *ring) claim(l syslogLine) (said *ringMessage, isFirst bool) {
	at := slices.IndexFunc(r.said, func(m *ringMessage) bool {
		return m.record.Text == l.text && (m.record.Time == l.at || l.at < 0 && !m.isClaimed)
	})
	if at < 0 && l.at < 0 {
		at = slices.IndexFunc(r.said, func(m *ringMessage) bool { return m.record.Text == l.text })
	}
	if at < 0 {
		return nil, false
	}
	said = r.said[at]
	isFirst = !said.isClaimed
	if isFirst {
		said.isClaimed = true
		r.told = max(r.told, said.record.Sequence)
	}
	return said, isFirst
}

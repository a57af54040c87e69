//go:build linux

package ebpf

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/bpf"
	"github.com/kmodquery/kmodquery/internal/source"
	"github.com/kmodquery/kmodquery/linux/host"
)

// Source is the source that hooks the kernel's module functions. It needs Linux 5.8
// or later with BTF, and root or the capabilities CAP_BPF and CAP_PERFMON.
type Source struct {
	health  *source.Health
	options Options
	acks    *ackTracker
	denials *denials
	files   fileReader   // of all runs: a file that hangs outlives its run
	watched time.Time    // last call of KeepWatch; used by Run only
	ready   func()       // of Run
	isBlind bool         // a check found that the hooks do not run; used by Run only
	skipped atomic.Int64 // images that were not read because they killed recorders

	// Used by Run only:
	note           error // what is to be known of the programs; nil if nothing
	cure           error // why they were attached in place of others; nil if they were not
	missed         error // that they did not record a canary; nil until then, and after they did
	untested       error // why none was made, or says nothing; nil if one says something
	isCanaryStored bool

	report func(error) // see ReportTo; may be nil

	openPrograms func(context.Context, Options, bool) (*bpf.Programs, error)

	mu       sync.Mutex    // guards the fields below
	programs *bpf.Programs // nil while Run is not running
	cause    error         // error that Run is to return; nil if none
	replace  bool          // the next Run replaces the pinned programs
	doubt    error         // why Run is to attach the hooks again; nil if it is not
	lost     losses        // losses that health has
	shed     losses        // the same of those that any user can cause
}

// Options configure a Source. The zero value reads no images and pins no programs.
type Options struct {
	// ImageLimit is the size in bytes of the largest module whose image the
	// programs send, at most [MaxImage]. The hash of a larger module is read from
	// its file.
	ImageLimit int64
	// PinDir is a directory in a BPF file system in which the programs stay attached
	// when the process ends. The next process reads what they recorded. If it is
	// empty, no programs are pinned. OnlyPinned uses the programs that are pinned
	// there, and pins none if there are none.
	PinDir     string
	OnlyPinned bool
	// HasCanary tests the hooks whenever they were attached or opened, and when records were
	// filtered, by a call of init_module(2) that the kernel must deny.
	HasCanary bool
	// KeepCanaries stores what identifies the canaries of the last processes, for sources that read
	// of them later, and Canaries returns it. Either may be nil.
	Canaries     func() []uint64
	KeepCanaries func([]uint64)
	// Keys returns the dedup keys of the source's stored events; nil if nothing is
	// stored.
	Keys func(context.Context) ([]string, error)
	// KeepWatch stores the time at which the hooks were last seen attached, and
	// Watched returns it, also to a later process; zero if there is none. They date
	// the gap in which nothing was recorded. Either may be nil.
	Watched   func() time.Time
	KeepWatch func(time.Time)
	// KeepGap stores a gap until the kernel's log of that time has been read, and Gap
	// returns it, also to a later process; zero times if there is none. Either may be nil.
	Gap     func() (start, end time.Time)
	KeepGap func(start, end time.Time)
	// KeepReading stores load_ids for later processes, even if this one is killed at once,
	// and Reading returns them. They are of images that processes were reading when they
	// were killed. Either may be nil.
	Reading     func() []string
	KeepReading func(loadIDs []string)
}

// MaxImage is the maximum of Options.ImageLimit, in bytes.
const MaxImage = bpf.MaxImage

// New returns a source. It attaches nothing before Run.
func New(o Options) *Source {
	return &Source{
		health: source.New(kmodquery.SourceEBPF), options: o, acks: newAckTracker(), denials: newDenials(),
		files: fileReader{timeout: imageTime}, openPrograms: openPrograms,
	}
}

// Run attaches the hooks, calls ready, and calls emit with each event until ctx
// ends. The events of one load attempt come in the order in which the kernel recorded
// them. The caller must pass each event to Acked when it is stored: its records stay
// in the kernel until then. Pinned hooks stay attached when Run returns, and the next
// Run, of this or another process, emits what they recorded.
//
// If there is cause to doubt the hooks, Run attaches them again beside those in use, and
// calls ready again if those did not run.
//
// It returns an error matching kmodquery.ErrNotSupported if this host can never
// support the source. After any other error, such as that tracing was switched off, it
// may be called again.
func (s *Source) Run(ctx context.Context, ready func(), emit func(kmodquery.Delivery)) (err error) {
	programs, keys, err := s.open(ctx)
	if err != nil {
		s.isBlind = s.isBlind || errors.Is(err, bpf.ErrFtraceOff) // pinned programs do not run
		if errors.Is(err, context.Canceled) {
			err = nil // it was stopped while it attached the hooks
		}
		s.health.Stopped(err)
		return err
	}
	s.ready = ready
	s.acks.start(keys)
	s.denials.begin(programs, keys, time.Now())
	s.noteGap(programs.WereThere())
	s.cure = nil
	s.attach(programs, nil)
	arming := &rearming{}
	defer func() { err = errors.Join(err, s.detach(ctx, err, arming)) }()
	ready()

	stop := context.AfterFunc(ctx, s.flush)
	defer stop()
	r, err := s.newRun(programs, emit, arming)
	for err == nil {
		var next *bpf.Programs
		if next, err = r.loop(ctx); next == nil {
			break
		}
		wasBlind := s.isBlind
		if err = s.replaceBy(next); err != nil {
			break
		}
		if wasBlind {
			ready()
		}
		r, err = r.continued(next, emit)
	}
	return err
}

// flush wakes Run.
func (s *Source) flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.programs != nil {
		_ = s.programs.Flush() // fails only after Close
	}
}

// open attaches the programs, or opens those that are pinned. It returns the keys of
// the stored events.
func (s *Source) open(ctx context.Context) (programs *bpf.Programs, keys []string, err error) {
	var unread error
	if s.options.Keys != nil {
		keys, unread = s.options.Keys(ctx)
	}
	// Without pinned records nothing can be emitted twice, so the source must run
	// even if the store cannot be created on a full disk.
	if unread != nil && s.options.PinDir != "" && bpf.HasPins(s.options.PinDir) {
		return nil, nil, unread
	}
	s.mu.Lock()
	replace := s.replace
	s.mu.Unlock()
	// The kernel may take long to verify the programs, which cannot be interrupted.
	type opened struct {
		programs *bpf.Programs
		err      error
	}
	done := make(chan opened, 1)
	go func() {
		programs, err := s.openPrograms(ctx, s.options, replace)
		done <- opened{programs, err}
	}()
	select {
	case o := <-done:
		return o.programs, keys, o.err
	case <-ctx.Done():
		go func() {
			if o := <-done; o.programs != nil {
				_ = o.programs.Close()
			}
		}()
		return nil, nil, ctx.Err()
	}
}

func (o *Options) bpf() bpf.Options {
	return bpf.Options{ImageLimit: o.ImageLimit, PinDir: o.PinDir, OnlyPinned: o.OnlyPinned}
}

// openPrograms attaches the programs. Its errors say what the host lacks. replace
// replaces pinned programs.
func openPrograms(ctx context.Context, o Options, replace bool) (*bpf.Programs, error) {
	if err := requireModules(); err != nil {
		return nil, err
	}
	options := o.bpf()
	options.Anew = replace
	programs, err := bpf.Open(ctx, options)
	if err != nil {
		return nil, explainOpen(err)
	}
	return programs, nil
}

// requireModules fails if this kernel has no modules.
func requireModules() error {
	if _, err := os.Stat("/proc/modules"); errors.Is(err, os.ErrNotExist) {
		return &kmodquery.NotSupportedError{
			Missing: "this kernel cannot load modules",
			Need:    "a kernel built with CONFIG_MODULES",
		}
	}
	return nil
}

// explainOpen says what the host lacks.
func explainOpen(err error) error {
	switch {
	case errors.Is(err, bpf.ErrNoBTF):
		return &kmodquery.NotSupportedError{
			Missing: err.Error(),
			Need:    "Linux 5.8 or later built with CONFIG_DEBUG_INFO_BTF (/sys/kernel/btf/vmlinux)",
		}
	case errors.Is(err, bpf.ErrNoRingBuffer):
		return &kmodquery.NotSupportedError{Missing: err.Error(), Need: "Linux 5.8 or later"}
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("attach eBPF programs: %w; run as root, or with CAP_BPF and CAP_PERFMON", unix.EPERM)
	}
	return fmt.Errorf("attach eBPF programs: %w", err)
}

// An Inspection says how the hooks can be attached to this kernel.
type Inspection = bpf.Inspection

// Inspect returns how the hooks can be attached to this kernel. It attaches nothing. Its
// error is that of a Run on this host.
func Inspect() (Inspection, error) {
	if err := requireModules(); err != nil {
		return Inspection{}, err
	}
	i, err := bpf.Inspect()
	if err != nil {
		return Inspection{}, explainOpen(err)
	}
	return i, nil
}

// ReportTo makes Run report why it attaches the hooks again. It must be called before Run.
func (s *Source) ReportTo(report func(error)) { s.report = report }

// Name is the source's name in the tables.
func (s *Source) Name() string { return s.health.Name() }

// Sync returns when the events of every record that the programs made before the call
// were emitted; at once if Run is not running. It waits up to 250 ms for the results
// of loads that are under way, and up to 5 s for images that are being read.
func (s *Source) Sync(ctx context.Context) error { return s.health.Sync(ctx) }

// Sensor returns the state and the counters of the source.
func (s *Source) Sensor() kmodquery.Sensor {
	s.mu.Lock() // before health: detach adds the losses of the programs to health's
	defer s.mu.Unlock()
	sensor := s.health.Sensor()
	if s.programs != nil {
		lost, err := s.programs.Lost()
		if err != nil {
			sensor.Reason = err.Error()
		}
		sensor.Lost += s.lost.since(lost)
		sensor.Shed += s.shed.since(s.programs.Shed())
	}
	if n := s.skipped.Load(); n > 0 {
		skipped := fmt.Sprintf("%d images were not read, because %d recorders were killed while they read each", n, maxDeaths)
		sensor.Reason = strings.TrimPrefix(sensor.Reason+"; "+skipped, "; ")
	}
	return sensor
}

// LastRound returns when the event loops of Run last completed a round, that of the
// one furthest behind, or the zero time while they do not run.
func (s *Source) LastRound() time.Time { return s.health.LastRound() }

// attach notes that the programs are attached. note, unless it is nil, is part of the
// sensor's reason. Programs that missed a canary are still doubtful.
func (s *Source) attach(programs *bpf.Programs, note error) {
	s.mu.Lock()
	s.programs, s.cause, s.replace = programs, nil, false
	s.mu.Unlock()
	s.show(programs, note)
}

// shown are the programs as the sensor shows them (bpf.Programs).
type shown interface {
	Hooks() []string
	Unattached() []error
	Leftovers() []error
	Unpinned() error
	Flush() error
}

// show shows the state of the programs in the sensor, with a note.
func (s *Source) show(programs shown, note error) {
	s.note = note
	limits := note
	if err := programs.Unpinned(); err != nil && s.options.PinDir != "" && !s.options.OnlyPinned {
		limits = errors.Join(limits, fmt.Errorf("not pinned, so loads go unseen while nothing records: %w", err))
	}
	limits = errors.Join(limits, s.untested)
	reason := ""
	if limits != nil {
		reason = source.OneLine(limits)
	}
	s.health.Started(programs.Hooks(), reason, func() { _ = programs.Flush() }) // fails only after Close
	wrong := programs.Leftovers()
	if errs := programs.Unattached(); len(errs) > 0 {
		wrong = append([]error{fmt.Errorf("some hooks are missing: %w", errors.Join(errs...))}, wrong...)
	}
	if s.missed != nil {
		wrong = append([]error{s.missed}, wrong...)
	}
	if len(wrong) > 0 {
		s.health.Degraded(errors.Join(wrong...))
	}
}

// noteGap records the time in which no hooks were attached, or since the last check before
// one that found that they do not run. If Run found them attached, that is the gap before
// they were, of which an earlier process has not read the kernel's log to the end; usually
// there is none.
func (s *Source) noteGap(wereThere bool) {
	wereThere = wereThere && !s.isBlind
	s.isBlind = false
	now := time.Now()
	booted := now.Add(-host.SinceBoot())
	var start, end time.Time
	if s.options.Gap != nil {
		start, end = s.options.Gap()
	}
	if start.Before(booted) {
		start = booted
	}
	if !wereThere {
		var watched time.Time
		if s.options.Watched != nil {
			watched = s.options.Watched()
		}
		since := unwatchedSince(booted, watched, now)
		if end.Before(booted) || since.Before(start) {
			start = since
		}
		end = now
	}
	if end.Before(booted) {
		return
	}
	s.health.SetGap(start, end)
	if s.options.KeepGap != nil {
		s.options.KeepGap(start, end)
	}
}

// unwatchedSince returns the start of a gap: when the hooks were last seen attached,
// but not before the host booted.
func unwatchedSince(booted, watched, now time.Time) time.Time {
	// A time in the future was stored before the clock was set back, so its
	// distance is unknown.
	if watched.Before(booted) || watched.After(now) {
		return booted
	}
	return watched
}

// keepWatch stores the time at which the hooks were seen attached.
func (s *Source) keepWatch(at time.Time) {
	if s.options.KeepWatch == nil || !at.After(s.watched) {
		return
	}
	s.watched = at
	s.options.KeepWatch(at)
}

// Acked notes that events that Run emitted were stored, or dropped by the recorder.
// Their records in the kernel are released. It ignores events of other sources. It
// may be called at any time.
func (s *Source) Acked(deliveries []kmodquery.Delivery) {
	for i := range deliveries {
		if key := deliveries[i].Key; key != "" && deliveries[i].Event.Source == s.Name() {
			s.denials.ack(key)
			s.acks.acked(key)
		}
	}
}

// losses are the numbers of records that each set of programs has lost. A pinned set
// continues to count in the next Run.
type losses map[uint64]uint64

// since returns how many more records were lost now.
func (l losses) since(now losses) (more int64) {
	for set, lost := range now {
		more += int64(lost - min(l[set], lost))
	}
	return more
}

// release ends the use of the programs and returns them. They may take their time to
// close, and Sensor needs the lock.
func (s *Source) release() *bpf.Programs {
	s.acks.stop()
	s.denials.end()
	s.mu.Lock()
	defer s.mu.Unlock()
	if lost, err := s.programs.Lost(); err == nil {
		s.health.Lost.Add(s.lost.since(lost))
		s.lost = lost
	}
	shed := s.programs.Shed()
	s.health.Shed.Add(s.shed.since(shed))
	s.shed = shed
	programs := s.programs
	s.programs, s.doubt = nil, nil
	return programs
}

// replaceBy replaces the programs by others, which read what those have recorded.
func (s *Source) replaceBy(next *bpf.Programs) error {
	doubt := s.failureOf(&s.doubt)
	err := next.Inherit(s.release())
	s.noteGap(next.WereThere())
	s.denials.begin(next, nil, time.Now())
	s.cure = doubt
	s.attach(next, fmt.Errorf("attached again at %s: %w", nowText(), doubt))
	return err
}

// detach ends a run for a cause, and closes its programs.
func (s *Source) detach(ctx context.Context, cause error, arming *rearming) error {
	err := arming.close(ctx, s.release())
	s.health.Stopped(cause)
	if err != nil {
		return fmt.Errorf("detach eBPF programs: %w", err)
	}
	return nil
}

// HasPins reports whether a complete set of eBPF programs is pinned in a directory
// of a BPF file system.
func HasPins(dir string) bool { return bpf.HasPins(dir) }

// Detach removes the programs that are pinned in a directory, and the records that
// were not read. It fails while a process uses them.
func Detach(dir string) error {
	_, err := bpf.Detach(dir)
	if errors.Is(err, bpf.ErrPinsBusy) {
		return fmt.Errorf("%w; end it first", err)
	}
	return err
}

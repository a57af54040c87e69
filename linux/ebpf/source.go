//go:build linux

package ebpf

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/kmodquery/kmodquery/linux/host"

	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/bpf"
	"github.com/kmodquery/kmodquery/internal/source"
)

// Source is the source that hooks the kernel's module functions. It needs a
// kernel from 5.8 on with BTF, and CAP_BPF and CAP_PERFMON, or root.
type Source struct {
	health  *source.Health
	options Options
	acks    *ackTracker
	denials *denials
	watched time.Time // Run's own: when the hooks were last seen to be well

	mu       sync.Mutex    // guards what follows
	programs *bpf.Programs // nil while not attached
	doubt    error         // why Run is to end; nil while it is not
	anew     bool          // what is pinned is not trusted
	lost     losses        // that the account has
}

// Options say what the source spends.
type Options struct {
	// ImageLimit is the size, in bytes, of the largest module whose image is
	// taken from the kernel. A larger one is hashed from its file. At most
	// [MaxImage].
	ImageLimit int64
	// PinDir is a folder of a BPF file system in which the hooks stay when the
	// process ends, so that what they see waits for the next one; "" for none.
	// OnlyPinned uses what is pinned there and pins nothing where nothing is.
	PinDir     string
	OnlyPinned bool
	// Keys returns the deduplication keys of the source's stored events; nil if
	// nothing is stored.
	Keys func(context.Context) ([]string, error)
	// Watched returns when a process last said, by KeepWatch, that it watched; the
	// zero time where none did. Nil where nobody remembers.
	Watched   func() time.Time
	KeepWatch func(time.Time)
}

// MaxImage is the greatest Options.ImageLimit, and the default.
const MaxImage = bpf.MaxImage

// New returns a source that watches nothing until Run.
func New(o Options) *Source {
	return &Source{health: source.New(kmodquery.SourceEBPF), options: o, acks: newAckTracker(), denials: newDenials()}
}

// Run attaches the hooks, calls ready once, and gives their events to emit, in
// the order in which the kernel recorded them within one load attempt, until
// ctx ends. An error that matches kmodquery.ErrNotSupported says that this host
// will never do; any other may pass, such as that somebody detached the hooks.
// Where the hooks are pinned, they stay, and what they see is told by the next Run
// or process; Acked must be called then.
func (s *Source) Run(ctx context.Context, ready func(), emit func(kmodquery.Delivery)) (err error) {
	programs, keys, err := s.open(ctx)
	if err != nil {
		s.health.Stopped(err)
		return err
	}
	s.acks.start(programs, keys)
	s.denials.begin(programs, keys, time.Now())
	s.noteGap(programs)
	s.attach(programs)
	defer func() { err = errors.Join(err, s.detach(err)) }()
	ready()

	stop := context.AfterFunc(ctx, func() { _ = programs.Flush() })
	defer stop()
	return s.read(ctx, programs, emit)
}

// open attaches the programs, or finds those that are pinned. The keys are of
// what they told of and is stored.
func (s *Source) open(ctx context.Context) (programs *bpf.Programs, keys []string, err error) {
	var unread error
	if s.options.Keys != nil {
		keys, unread = s.options.Keys(ctx)
	}
	// Where nothing waits in the kernel nothing can be told twice: a store that
	// cannot be begun, on a full disk, must not keep this from watching.
	if unread != nil && s.options.PinDir != "" && bpf.HasPins(s.options.PinDir) {
		return nil, nil, unread
	}
	programs, err = openPrograms(s.options, s.isUnreliable())
	return programs, keys, err
}

// openPrograms attaches the programs, with errors that tell what the host lacks.
func openPrograms(o Options, anew bool) (*bpf.Programs, error) {
	if _, err := os.Stat("/proc/modules"); errors.Is(err, os.ErrNotExist) {
		return nil, &kmodquery.NotSupportedError{
			Missing: "this kernel cannot load modules",
			Need:    "a kernel built with CONFIG_MODULES",
		}
	}
	programs, err := bpf.Open(bpf.Options{
		ImageLimit: o.ImageLimit, PinDir: o.PinDir, OnlyPinned: o.OnlyPinned, Anew: anew,
	})
	switch {
	case errors.Is(err, bpf.ErrNoBTF):
		return nil, &kmodquery.NotSupportedError{
			Missing: err.Error(),
			Need:    "Linux 5.8 or later built with CONFIG_DEBUG_INFO_BTF (/sys/kernel/btf/vmlinux)",
		}
	case errors.Is(err, bpf.ErrNoRingBuffer):
		return nil, &kmodquery.NotSupportedError{Missing: err.Error(), Need: "Linux 5.8 or later"}
	case errors.Is(err, os.ErrPermission):
		return nil, fmt.Errorf("attach eBPF programs: %w; run as root, or with CAP_BPF and CAP_PERFMON", unix.EPERM)
	case err != nil:
		return nil, fmt.Errorf("attach eBPF programs: %w", err)
	}
	return programs, nil
}

// read is the source's one reader of the records.
func (s *Source) read(ctx context.Context, programs *bpf.Programs, emit func(kmodquery.Delivery)) error {
	bootID, err := host.BootID()
	if err != nil {
		return err
	}
	r := newReader(translator{bootID: bootID, types: programs}, s.denials, s.acks, func(d kmodquery.Delivery) {
		s.health.Emitted(&d)
		emit(d)
	})
	images := newImages(programs, func(c *bpf.Chunk) {
		s.acks.trackImage(c.Position, c.RingSize, r.translate.loadID(c.Attempt, c.Tid), time.Now())
	}, func(loadID string, found imageInfo) {
		r.found(loadID, found)
		_ = programs.Flush() // it fails only when the reading has ended
	})
	r.want = images.want
	images.loop = s.health.AddLoop()
	go images.run() // ends when the programs are closed

	live := liveness{check: func() error {
		_ = programs.FlushImages() // so that its loop completes a round; it fails only when the reading has ended
		return programs.Check()
	}}
	var b *barrier
	defer func() {
		var err error
		if programs.IsPinned() {
			err = r.leave()
		} else {
			err = r.finish(time.Now())
		}
		if err != nil {
			s.health.DecodeErrors.Add(1)
		}
		if b != nil {
			b.pending.Release()
		}
	}()
	for {
		s.health.Progress()
		if err := live.failure(time.Now(), b == nil && s.health.HasPending()); err != nil {
			s.markUnreliable(err)
		} else {
			s.keepWatch(live.last)
		}
		if b == nil {
			b = s.nextBarrier(ctx, programs)
		}
		if b.done(r.attempts) {
			if !b.last || !programs.IsPinned() {
				if err := r.finish(b.asked); err != nil {
					return err
				}
			}
			done := b
			b = nil
			done.pending.Release()
			if done.last {
				return done.cause
			}
			continue
		}
		deadline := r.deadline(b)
		if due := live.due(); due.Before(deadline) {
			deadline = due
		}
		programs.SetDeadline(deadline)
		raw, position, err := programs.Read()
		switch {
		case errors.Is(err, bpf.ErrFlushed), errors.Is(err, os.ErrDeadlineExceeded):
			b.drained()
			s.acks.drained(time.Now())
			now := time.Now()
			if err := r.expire(now, now); err != nil {
				return err
			}
			continue
		case err != nil:
			return fmt.Errorf("read the ring buffer: %w", err)
		}
		s.health.Received.Add(1)
		b.took(raw)
		record, err := bpf.Decode(raw)
		if err != nil {
			s.health.DecodeErrors.Add(1)
			continue
		}
		now := time.Now()
		if err := r.take(record, position, bpf.RingSize(len(raw)), now); err != nil {
			return err
		}
	}
}

// Name is the source's name in the tables.
func (s *Source) Name() string { return s.health.Name() }

// Sync returns when every record that the programs had made before the call was
// given to emit; at once when the source is not running. It waits a moment for
// the loads that are under way.
func (s *Source) Sync(ctx context.Context) error { return s.health.Sync(ctx) }

// Sensor is the source's own account of itself.
func (s *Source) Sensor() kmodquery.Sensor {
	s.mu.Lock() // first, for detach moves what was lost from one to the other
	defer s.mu.Unlock()
	sensor := s.health.Sensor()
	if s.programs != nil {
		counters, err := s.programs.Counters()
		if err != nil {
			sensor.Reason = err.Error()
		}
		sensor.Lost += s.lost.since(counters.Lost)
	}
	return sensor
}

// LastRound returns when the event loops of Run last completed a round, that of the
// one furthest behind, or the zero time while they do not run.
func (s *Source) LastRound() time.Time { return s.health.LastRound() }

func (s *Source) attach(programs *bpf.Programs) {
	s.mu.Lock()
	s.programs, s.doubt, s.anew = programs, nil, false
	s.mu.Unlock()
	s.health.Started(programs.Hooks(), s.unpinned(programs), func() { _ = programs.Flush() }) // it fails only when the reading has ended
	if errs := programs.Unattached(); len(errs) > 0 {
		s.health.Degraded(fmt.Errorf("some hooks are missing: %w", errors.Join(errs...)))
	}
}

// noteGap notes since when nothing has watched, unless the hooks that are there
// have done so all the time.
func (s *Source) noteGap(programs *bpf.Programs) {
	if programs.WereThere() {
		return
	}
	now := time.Now()
	var watched time.Time
	if s.options.Watched != nil {
		watched = s.options.Watched()
	}
	s.health.SetGap(unwatchedSince(now.Add(-host.SinceBoot()), watched, now), now)
}

// unwatchedSince is since when no hooks can have watched: since the last sign of
// any, or since the kernel booted, with which all before were lost.
func unwatchedSince(booted, watched, now time.Time) time.Time {
	// A sign that lies ahead is from before the clock was set back, and nobody
	// knows how long.
	if watched.Before(booted) || watched.After(now) {
		return booted
	}
	return watched
}

// keepWatch leaves a sign that the hooks were seen to be well at this moment.
func (s *Source) keepWatch(at time.Time) {
	if s.options.KeepWatch == nil || !at.After(s.watched) {
		return
	}
	s.watched = at
	s.options.KeepWatch(at)
}

// unpinned says that loads go unseen while no process records, and why.
func (s *Source) unpinned(programs *bpf.Programs) string {
	if err := programs.Unpinned(); err != nil && s.options.PinDir != "" && !s.options.OnlyPinned {
		return source.OneLine(fmt.Errorf("not pinned, so loads go unseen while nothing records: %w", err))
	}
	return ""
}

// Acked notes that events of this source, which Run emitted, are stored, or
// that the one who should have stored them gave them up. What the kernel keeps of
// them is released. It may be called at any time.
func (s *Source) Acked(deliveries []kmodquery.Delivery) {
	now := time.Now()
	for i := range deliveries {
		if key := deliveries[i].Key; key != "" && deliveries[i].Event.Source == s.Name() {
			s.denials.ack(key)
			s.acks.acked(key, now)
		}
	}
}

// losses are how many records each set of programs has lost. A set that is pinned
// counts on in the next Run.
type losses map[uint64]uint64

// since is how many more these are.
func (l losses) since(now losses) (more int64) {
	for set, lost := range now {
		more += int64(lost - min(l[set], lost))
	}
	return more
}

func (s *Source) detach(cause error) error {
	s.acks.stop()
	s.denials.end()
	s.mu.Lock()
	if counters, err := s.programs.Counters(); err == nil {
		s.health.Lost.Add(s.lost.since(counters.Lost))
		s.lost = counters.Lost
	}
	programs := s.programs
	s.programs = nil
	s.mu.Unlock()
	err := programs.Close() // without the lock: the kernel may take its time, and Sensor needs it
	s.health.Stopped(cause)
	if err != nil {
		return fmt.Errorf("detach eBPF programs: %w", err)
	}
	return nil
}

// nextBarrier is what the Syncs of the moment, or the end of ctx or of trust in the
// hooks, wait for; nil where there is none of them.
func (s *Source) nextBarrier(ctx context.Context, programs *bpf.Programs) *barrier {
	s.mu.Lock()
	cause := s.doubt
	s.mu.Unlock()
	if ctx.Err() != nil {
		cause = nil
	}
	pending, last := s.health.TakePending(), ctx.Err() != nil || cause != nil
	if len(pending) == 0 && !last {
		return nil
	}
	now := time.Now()
	return &barrier{
		pending: pending, last: last, cause: cause,
		left: programs.Pending(), asked: now, until: now.Add(grace), images: now.Add(imageGrace),
	}
}

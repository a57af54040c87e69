//go:build linux

package klog

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/internal/progress"
	"github.com/kmodquery/kmodquery/internal/source"
	"github.com/kmodquery/kmodquery/linux/host"
)

// A logSource is what the sources that read logs have in common.
type logSource struct {
	health   *source.Health
	position func(ctx context.Context) (string, error)
	since    time.Time
	until    time.Time
}

func newLogSource(name string, position func(ctx context.Context) (string, error)) *logSource {
	return &logSource{health: source.New(name), position: position}
}

// Name returns the source's name in the tables.
func (s *logSource) Name() string { return s.health.Name() }

// Sync returns when the events of all messages that the log had before the call were
// emitted; at once if the source does not run.
func (s *logSource) Sync(ctx context.Context) error { return s.health.Sync(ctx) }

// Sensor returns the source's state and counters.
func (s *logSource) Sensor() kmodquery.Sensor { return s.health.Sensor() }

// LastRound returns when the event loop of Run last completed a round, or the zero time
// while it does not run.
func (s *logSource) LastRound() time.Time { return s.health.LastRound() }

// Backfill makes the next Run emit no events from before since or after until, which
// another source has seen. A zero since stands for the boot, and a zero until sets no limit. It
// must not be called during Run.
func (s *logSource) Backfill(since, until time.Time) { s.since, s.until = since, until }

// resume returns the id of the present boot, and the position at which an earlier Run
// ended, of this process or another.
func (s *logSource) resume(ctx context.Context) (boot, position string, err error) {
	if boot, err = host.BootID(); err != nil {
		return "", "", err
	}
	position, err = s.health.Resume(ctx, s.position)
	return boot, position, err
}

// newCorrelator returns the correlator of one Run. It counts the events that it emits.
func (s *logSource) newCorrelator(emit func(kmodquery.Delivery)) *correlator {
	return &correlator{source: s.Name(), since: s.since, until: s.until, isBuiltin: builtins(), emit: func(d kmodquery.Delivery) {
		s.health.Emitted(&d)
		emit(d)
	}}
}

// maxBacklog bounds the time before serve calls ready although its log has more.
const maxBacklog = 30 * time.Second

// serve is the run loop of a source that can read at any time what its log has. read
// reports whether it has read all. wait returns when there may be more to read, when a
// Sync begins, when ctx ends, and at the deadline.
func (s *logSource) serve(
	ctx context.Context, ready func(), c *correlator, read func() (isAll bool, err error), wait func(deadline time.Time) error,
) error {
	sync := s.health.NewBarrier(quietPeriod)
	defer sync.Release()
	began := time.Now()
	for {
		sync.Begin()
		isLast := ctx.Err() != nil
		isAll, err := read()
		if err != nil {
			return err
		}
		var quiet time.Time
		if isAll {
			quiet = c.quiet()
		}
		isReady := ready != nil && (isAll || time.Since(began) >= maxBacklog)
		if isReady || isLast || sync.IsDue(quiet) {
			c.flush()
			sync.Release()
		}
		if isLast {
			return nil
		}
		if isReady {
			ready()
			ready = nil
		}
		c.expire(time.Now())
		if err := wait(source.Earliest(c.next(), sync.Due(quiet), time.Now().Add(progress.Interval))); err != nil {
			return err
		}
	}
}

// maxBuiltins bounds what is read of modules.builtin, in bytes. Distributions' have about
// 30 KiB.
const maxBuiltins = 1 << 20

// readBuiltins returns the beginning of the first file that can be opened, or nothing. Root
// may have put anything in its place.
func readBuiltins(paths ...string) string {
	for _, path := range paths {
		file, err := host.OpenFile("/proc/self", path, nil)
		if err != nil {
			continue
		}
		defer file.Close()
		list, _ := io.ReadAll(io.LimitReader(file, maxBuiltins)) // what was read counts
		return string(list)
	}
	return ""
}

// builtins returns a function that reports whether a module is built into the running
// kernel: whether modules.builtin lists it, or /sys/module has it without the file
// initstate that a loaded module has there (kernel/module/main.c, modinfo_initstate).
// It does not read the file: for a hidden module that may be a BUG() in the kernel.
func builtins() func(name string) bool {
	var uts unix.Utsname
	_ = unix.Uname(&uts) // it cannot fail with a valid pointer
	path := "/lib/modules/" + unix.ByteSliceToString(uts.Release[:]) + "/modules.builtin"
	names := map[string]bool{}
	for path := range strings.Lines(readBuiltins("/usr"+path, path)) { // one of the two may be a link
		file := path[strings.LastIndexByte(path, '/')+1:]
		name, _, _ := strings.Cut(file, ".ko")
		names[strings.ReplaceAll(name, "-", "_")] = true
	}
	return func(name string) bool {
		name = strings.ReplaceAll(name, "-", "_")
		if names[name] {
			return true
		}
		dir := "/sys/module/" + strings.ReplaceAll(name, "/", "!")
		_, err := os.Lstat(dir)
		_, stateErr := os.Lstat(dir + "/initstate")
		return err == nil && errors.Is(stateErr, fs.ErrNotExist)
	}
}

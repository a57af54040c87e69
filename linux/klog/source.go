//go:build linux

package klog

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/internal/source"
	"github.com/kmodquery/kmodquery/linux/host"
)

// A logSource is what the sources that read logs have in common.
type logSource struct {
	health   *source.Health
	position func(ctx context.Context) (string, error)
	since    time.Time
}

func newLogSource(name string, position func(ctx context.Context) (string, error)) *logSource {
	return &logSource{health: source.New(name), position: position}
}

// Name is the source's name in the tables.
func (s *logSource) Name() string { return s.health.Name() }

// Sync returns when what the log had before the call was given to emit; at once
// when the source is not running.
func (s *logSource) Sync(ctx context.Context) error { return s.health.Sync(ctx) }

// Sensor is the source's own account of itself.
func (s *logSource) Sensor() kmodquery.Sensor { return s.health.Sensor() }

// LastRound returns when the event loop of Run last completed a round, or the zero time
// while it does not run.
func (s *logSource) LastRound() time.Time { return s.health.LastRound() }

// Backfill bounds how far back the next Run looks: another source saw what
// happened before since. The zero time is no bound but the boot. It must not be
// called while Run does its work.
func (s *logSource) Backfill(since time.Time) { s.since = since }

// resume returns the present boot, and the position where an earlier Run, of this
// process or another, came to.
func (s *logSource) resume(ctx context.Context) (boot, position string, err error) {
	if boot, err = host.BootID(); err != nil {
		return "", "", err
	}
	position, err = s.health.Resume(ctx, s.position)
	return boot, position, err
}

// joiner makes the events of one Run, and counts them.
func (s *logSource) newCorrelator(emit func(kmodquery.Delivery)) *correlator {
	return &correlator{source: s.Name(), since: s.since, isBuiltin: builtins(), emit: func(d kmodquery.Delivery) {
		s.health.Emitted(&d)
		emit(d)
	}}
}

// A logSync is what a reader of a log owes to those who wait, and to the end of its
// context.
type logSync struct {
	pending source.Pending
	asked   time.Time // when the first of them came, or the end; zero where nobody asks
	isLast  bool      // the source ends with it
}

// take takes on who waits now. It is called before reading: what was said before
// they asked is then read.
func (s *logSync) take(ctx context.Context, a *source.Health) {
	s.pending = append(s.pending, a.TakePending()...)
	s.isLast = ctx.Err() != nil
	if s.asked.IsZero() && (len(s.pending) > 0 || s.isLast) {
		s.asked = time.Now()
	}
}

func (s *logSync) isAsked() bool { return !s.asked.IsZero() }

// answer lets go of those who wait.
func (s *logSync) answer() {
	s.pending.Release()
	s.pending, s.asked = nil, time.Time{}
}

// builtins reports what is built into the running kernel: what its list of
// modules says, and what /sys/module has without the state that a loaded module
// has there (kernel/module/main.c, modinfo_initstate).
func builtins() func(name string) bool {
	var uts unix.Utsname
	_ = unix.Uname(&uts) // it cannot fail with a valid pointer
	list, _ := os.ReadFile("/lib/modules/" + unix.ByteSliceToString(uts.Release[:]) + "/modules.builtin")
	names := map[string]bool{}
	for path := range strings.Lines(string(list)) {
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
		_, err := os.Stat(dir)
		_, stateErr := os.Stat(dir + "/initstate")
		return err == nil && errors.Is(stateErr, fs.ErrNotExist)
	}
}

//go:build linux

package linux

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
)

// A logSource is what the sources that read logs have in common.
type logSource struct {
	account
	position func(ctx context.Context) (string, error)
	since    time.Time
	emitted  string        // the last position, which may not be stored yet
	woken    chan struct{} // has room for one
}

func newLogSource(name string, position func(ctx context.Context) (string, error)) *logSource {
	return &logSource{account: newAccount(name), position: position, woken: make(chan struct{}, 1)}
}

// LookBack bounds how far back the next Run looks: another source saw what
// happened before since. The zero time is no bound but the boot. It must not be
// called while Run does its work.
func (s *logSource) LookBack(since time.Time) { s.since = since }

// start notes that the source reads what hooks names.
func (s *logSource) start(hooks ...string) {
	s.begin(hooks, "", func() {
		select {
		case s.woken <- struct{}{}:
		default: // somebody woke it already
		}
	})
}

// joiner makes the events of one Run, and counts them.
func (s *logSource) joiner(emit func(kmodquery.Event)) *lineJoiner {
	return &lineJoiner{source: s.Name(), since: s.since, isBuiltin: builtins(), emit: func(e kmodquery.Event) {
		s.tell(&e)
		if e.Position != "" {
			s.emitted = e.Position
		}
		emit(e)
	}}
}

// lastPosition is where an earlier Run, of this process or another, came to.
func (s *logSource) lastPosition(ctx context.Context) (string, error) {
	if s.emitted != "" || s.position == nil {
		return s.emitted, nil
	}
	position, err := s.position(ctx)
	if err != nil {
		return "", fmt.Errorf("ask the store how far the log was read: %w", err)
	}
	return position, nil
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

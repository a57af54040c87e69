//go:build linux

package ebpf

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery/bpf"
)

// entry is the hook at which a call begins; that of its return is SystemCall.
const entry = ^bpf.Kind(0)

// A watcher is a set of programs as a thread meets it.
type watcher struct {
	from    map[bpf.Kind]time.Duration // when each hook is attached
	until   map[bpf.Kind]time.Duration // and detached
	delay   time.Duration              // after the other set, at each hook
	attempt time.Duration              // under way; 0 for none
	isTold  bool                       // its process was told of
	records []bpf.Record
}

// run is what module.bpf.c does at a hook.
func (w *watcher) run(kind bpf.Kind, now time.Duration, call string) {
	if kind == entry || kind == bpf.ReadFile && w.attempt == 0 {
		w.attempt, w.isTold = 0, false
	}
	if now += w.delay; now < w.from[kind] || now >= w.until[kind] {
		return
	}
	if kind == entry || kind == bpf.ReadFile && w.attempt == 0 {
		w.attempt = now
	}
	if kind == entry {
		return
	}
	r := bpf.Record{Kind: kind, Tid: 5, Attempt: w.attempt, Context: w.attempt, Boot: now + 2000, Comm: call}
	if kind == bpf.ModuleRequest {
		r.Attempt, r.Context = now, now
	} else if w.attempt == 0 {
		r.Context = now
	}
	if r.Context == now || !w.isTold {
		w.records = append(w.records, bpf.Record{Kind: bpf.ProcessPath, Tid: 5, Context: r.Context, Boot: now + 1000})
		w.isTold = r.Context == w.attempt
	}
	w.records = append(w.records, r)
	if kind == bpf.SystemCall {
		w.attempt = 0
	}
}

// attachOneByOne has the hooks come or go in this order, and returns when all
// have.
func attachOneByOne(chance *rand.Rand, hooks map[bpf.Kind]time.Duration, at time.Duration) time.Duration {
	for _, kind := range []bpf.Kind{bpf.SystemCall, bpf.ModuleRequest, bpf.ModuleLoad, bpf.ReadFile, entry} {
		hooks[kind] = at
		at += time.Duration(chance.Int64N(int64(50 * time.Millisecond)))
	}
	return at
}

// TestHandoverTellsEachCallOnce has a thread make calls while sets of programs
// relieve each other: a second and a third one, of which the second may come to
// nothing, or to its turn and then not to the end of the first.
func TestHandoverTellsEachCallOnce(t *testing.T) {
	for seed := range uint64(1000) {
		chance := rand.New(rand.NewPCG(seed, 0))
		between := func(from, to time.Duration) time.Duration { return from + time.Duration(chance.Int64N(int64(to-from))) }
		var sets [3]*watcher
		var turns [3]bpf.Turn
		var detach [3]time.Duration // when it may be
		attach := 10 * time.Second
		for i := range sets {
			sets[i] = &watcher{from: map[bpf.Kind]time.Duration{}, until: map[bpf.Kind]time.Duration{}, delay: between(0, 100*time.Microsecond)}
			turns[i] = bpf.Turn{Set: uint64(i + 1), Begin: 1}
			for _, kind := range []bpf.Kind{bpf.SystemCall, bpf.ModuleRequest, bpf.ModuleLoad, bpf.ReadFile, entry} {
				sets[i].until[kind] = time.Hour
			}
			if i > 0 {
				turns[i].Begin = attachOneByOne(chance, sets[i].from, attach)
				attach = turns[i].Begin + between(0, 2*time.Second)
			}
		}
		switch chance.IntN(3) {
		case 0:
			turns[0].End, turns[1].Begin = turns[2].Begin+bpf.TurnSlack, 0
			detach[0] = turns[2].Begin + 2*bpf.TurnSlack
		case 1:
			turns[0].End = turns[1].Begin + bpf.TurnSlack
			detach[0] = turns[2].Begin + 2*bpf.TurnSlack
		case 2:
			turns[0].End = turns[1].Begin + bpf.TurnSlack
			detach[0] = turns[1].Begin + 2*bpf.TurnSlack
		}
		turns[1].End = turns[2].Begin + bpf.TurnSlack
		detach[1] = turns[2].Begin + 2*bpf.TurnSlack
		detach[2] = time.Hour

		want := map[string]int{}
		pause := between(50*time.Microsecond, 20*time.Millisecond)
		now := 9800 * time.Millisecond
		for n := 0; now < turns[2].Begin+time.Second; n++ {
			call := fmt.Sprint(n)
			hooks := []bpf.Kind{entry, bpf.ReadFile, bpf.ModuleLoad, bpf.SystemCall}
			if chance.IntN(3) == 0 {
				hooks = slices.Insert(hooks, 3, bpf.ModuleRequest)
			}
			for _, kind := range hooks {
				for i, w := range sets {
					// Not in the midst of a call, but for one that takes too long.
					if now > detach[i] && (kind == entry || now > detach[i]+2*time.Second) {
						attachOneByOne(chance, w.until, now)
						detach[i] = time.Hour
					}
					w.run(kind, now, call)
				}
				if kind != entry {
					want[fmt.Sprint(call, " ", kind)]++
				}
				now += between(100*time.Microsecond, 300*time.Microsecond)
				switch n := chance.IntN(1000); {
				case n < 5:
					now += between(0, 200*time.Millisecond)
				case n < 7 && kind != entry: // it sleeps only once it has a module
					now += between(0, 5*time.Second)
				}
			}
			now += between(1, pause)
		}

		got, names := map[string]int{}, map[string]map[time.Duration]bool{}
		h := newHandover(turns[:])
		for i, w := range sets {
			for _, r := range w.records {
				if h.merge(&r, uint64(i+1)) || r.Kind == bpf.ProcessPath {
					continue
				}
				got[fmt.Sprint(r.Comm, " ", r.Kind)]++
				if r.Kind != bpf.ModuleRequest {
					if names[r.Comm] == nil {
						names[r.Comm] = map[time.Duration]bool{}
					}
					names[r.Comm][r.Attempt] = true
				}
			}
		}
		for hook, n := range want {
			require.Equal(t, n, got[hook], "seed %d: call %s", seed, hook)
		}
		for call, attempts := range names {
			require.Len(t, attempts, 1, "seed %d: call %s has several names", seed, call)
		}
	}
}

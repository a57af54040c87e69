//go:build linux

package ebpf

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/kmodquery/kmodquery/linux/host"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/bpf"
)

// recorded is attempts with the events that they emitted. Each event has a record of
// its own.
type recorded struct {
	*attempts
	events   []kmodquery.Event
	position uint64
}

// forever is later than any time in a test.
var forever = start.Add(1000 * time.Hour)

func newRecorded() *recorded {
	r := &recorded{}
	r.attempts = newAttempts(newAckTracker(), &fakeRelease{}, func(d kmodquery.Delivery) { r.events = append(r.events, d.Event) })
	return r
}

// attemptOf returns the id of the attempt that a test calls name.
func attemptOf(name string) attemptID {
	number, err := strconv.ParseInt(name, 36, 64)
	if err != nil {
		panic(err)
	}
	return attemptID{time.Duration(number + 1), 7}
}

// change calls a function with an attempt.
func (r *recorded) change(name string, now time.Time, change func(*attempt)) {
	r.update(func() {
		a := r.get(attemptOf(name), now)
		r.bound()
		change(a)
	})
}

func (r *recorded) add(e kmodquery.Event, now time.Time) {
	r.position++
	d := kmodquery.Delivery{Event: e, Key: keyOf(at(r.position))}
	r.change(e.LoadID, now, func(a *attempt) { r.attempts.add(a, d, now) })
}

func (r *recorded) expectImage(name string) { r.change(name, start, r.attempts.expectImage) }

func (r *recorded) setImage(name string, info imageInfo) {
	a := r.byID[attemptOf(name)]
	if a == nil {
		a = &attempt{} // it is forgotten
	}
	r.update(func() {
		r.attempts.setImage(a, info)
		r.attempts.expire(time.Time{}, time.Time{})
	})
}

// expire expires attempts when every record until now was read.
func (r *recorded) expire(now time.Time) { r.update(func() { r.attempts.expire(now, now) }) }

func (r *recorded) finish(by time.Time) { r.update(func() { r.attempts.finish(by) }) }

func (r *recorded) names() []string {
	names := []string{}
	for _, e := range r.events {
		names = append(names, e.EventName)
	}
	return names
}

var (
	start    = time.Unix(1_700_000_000, 0)
	readFile = kmodquery.Event{EventName: kmodquery.EventSecurityKernelReadFile, LoadID: "a", Type: kmodquery.TypeKernelModule, Path: "/tmp/x.ko", Origin: kmodquery.OriginFile, Size: new(int64(9))}
	loadData = kmodquery.Event{EventName: kmodquery.EventSecurityKernelLoadData, LoadID: "a", Type: kmodquery.TypeKernelModule, Origin: kmodquery.OriginMemory}
	load     = kmodquery.Event{EventName: kmodquery.EventModuleLoad, LoadID: "a", Name: "x", Taints: new(int64(0)), Params: new("n=1")}
	free     = kmodquery.Event{EventName: kmodquery.EventModuleFree, LoadID: "a", Name: "x"}
)

// unread is Missing of an event without an image.
const unread = "sha256,image_sha256,vermagic,license,intree,signer,signature_key_id,signature_hash"

func returned(name string, result int64) kmodquery.Event {
	return kmodquery.Event{EventName: name, LoadID: "a", Result: &result, Error: host.ErrnoName(result)}
}

func TestEventsOfAnAttemptShareTheirColumns(t *testing.T) {
	r := newRecorded()
	r.add(readFile, start)
	require.Empty(t, r.events, "the name is about to be known")
	r.add(load, start)
	require.Equal(t, []string{"security_kernel_read_file", "module_load"}, r.names())
	r.add(returned(kmodquery.EventFinitModule, 0), start)

	require.Len(t, r.events, 3)
	for _, e := range r.events {
		require.Equal(t, "x", e.Name, e.EventName)
		require.Equal(t, "/tmp/x.ko", e.Path, e.EventName)
		require.Equal(t, "n=1", *e.Params, e.EventName)
		require.EqualValues(t, 9, *e.Size, e.EventName)
	}
	require.Nil(t, r.events[1].Result, "module_load comes before the module's init")
	require.EqualValues(t, 0, *r.events[2].Result)
	require.Empty(t, r.byID)
	require.True(t, r.isIdle())
}

func TestEventsOfFailedLoads(t *testing.T) {
	tests := []struct {
		name   string
		events []kmodquery.Event
		want   []string
	}{
		{"refused before the module exists",
			[]kmodquery.Event{readFile, returned(kmodquery.EventFinitModule, -8)},
			[]string{"security_kernel_read_file", "finit_module"}},
		{"refused before a byte is read",
			[]kmodquery.Event{returned(kmodquery.EventFinitModule, -1)},
			[]string{"finit_module"}},
		{"init fails",
			[]kmodquery.Event{loadData, load, free, returned(kmodquery.EventInitModule, -19)},
			[]string{"security_kernel_load_data", "module_load", "module_free", "init_module"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := newRecorded()
			for _, e := range test.events {
				r.add(e, start)
			}
			require.Equal(t, test.want, r.names())
			last := r.events[len(r.events)-1]
			require.Negative(t, *last.Result)
			require.NotEmpty(t, last.Error)
			require.Empty(t, r.byID)
		})
	}
}

func TestInitThatDoesNotReturnIsReported(t *testing.T) {
	r := newRecorded()
	r.add(loadData, start)
	r.add(load, start)
	r.expire(start.Add(initPatience - 1))
	require.False(t, r.isIdle(), "the call has not returned")
	require.Equal(t, []string{"security_kernel_load_data", "module_load"}, r.names())

	require.Equal(t, start.Add(initPatience), r.next())
	r.expire(start.Add(initPatience))
	require.Equal(t, []string{"security_kernel_load_data", "module_load", "init_module"}, r.names())
	call := r.events[2]
	require.Nil(t, call.Result)
	require.Equal(t, "result,"+unread, call.Missing.String())
	require.Equal(t, "x", call.Name)
	r.expire(start.Add(time.Hour))
	require.Len(t, r.events, 3, "it is reported once")
	require.Zero(t, r.next())

	r.add(returned(kmodquery.EventInitModule, 0), start.Add(time.Hour))
	require.Len(t, r.events, 4)
	require.Equal(t, "sys_exit_init_module", r.events[3].EventName)
	require.EqualValues(t, 0, *r.events[3].Result)
	require.Empty(t, r.byID)
}

// The kernel may read a file slowly, or wait for other loads. None of the module's
// code runs before it is live, so its events can wait for the name.
func TestAttemptWaitsForSlowLoad(t *testing.T) {
	r := newRecorded()
	r.add(loadData, start)
	r.expire(start.Add(loadPatience - 1))
	require.Empty(t, r.events)
	r.add(load, start.Add(loadPatience-1))
	r.add(returned(kmodquery.EventInitModule, 0), start.Add(loadPatience))
	require.Equal(t, []string{"security_kernel_load_data", "module_load", "init_module"}, r.names())
	for _, e := range r.events {
		require.Equal(t, "x", e.Name)
		require.Equal(t, unread, e.Missing.String())
	}

	r = newRecorded()
	r.add(loadData, start)
	require.Equal(t, start.Add(loadPatience), r.next())
	r.expire(start.Add(loadPatience))
	require.Equal(t, []string{"security_kernel_load_data", "init_module"}, r.names())
}

func TestAttemptHoldsNoEventsAfterItIsGivenUp(t *testing.T) {
	t.Run("after a query", func(t *testing.T) {
		r := newRecorded()
		r.add(readFile, start)
		r.finish(forever)
		require.Equal(t, []string{"security_kernel_read_file"}, r.names())
		require.Equal(t, "name,"+unread, r.events[0].Missing.String())
		r.add(load, start)
		require.Len(t, r.events, 2)
		require.Equal(t, "/tmp/x.ko", r.events[1].Path)
	})
	t.Run("when the source ends", func(t *testing.T) {
		r := newRecorded()
		r.add(loadData, start)
		r.finish(forever)
		require.Equal(t, []string{"security_kernel_load_data", "init_module"}, r.names())
		require.Equal(t, "name,result,"+unread, r.events[1].Missing.String())
	})
	t.Run("after its stage ended", func(t *testing.T) {
		r := newRecorded()
		r.add(load, start)
		r.expire(start.Add(initPatience))
		r.add(readFile, start)
		require.Equal(t, []string{"module_load", "security_kernel_read_file"}, r.names())
	})
}

func TestAttemptsAreBounded(t *testing.T) {
	fill := func(r *recorded, n int) {
		for i := range n {
			e := loadData
			e.LoadID = fmt.Sprint(i)
			r.add(e, start)
		}
	}
	t.Run("the oldest is emitted", func(t *testing.T) {
		r := newRecorded()
		fill(r, maxAttempts+1)
		require.Equal(t, []string{"security_kernel_load_data", "init_module"}, r.names())
		require.Len(t, r.byID, maxAttempts)
	})
	t.Run("the oldest runs its init", func(t *testing.T) {
		r := newRecorded()
		for i := range maxAttempts {
			e := load
			e.LoadID = fmt.Sprint(i)
			r.add(e, start)
		}
		e := readFile
		e.LoadID = "new"
		r.add(e, start)
		require.Len(t, r.byID, maxAttempts)
		require.NotNil(t, r.byID[attemptOf("new")])
		require.Nil(t, r.byID[attemptOf("0")])
	})
	t.Run("those that are given up are forgotten first", func(t *testing.T) {
		r := newRecorded()
		r.add(loadData, start)
		r.finish(forever)
		fill(r, maxAttempts)
		require.Len(t, r.events, 2)
		require.NotContains(t, r.byID, attemptOf("a"))
	})
	t.Run("attempts without events", func(t *testing.T) {
		r := newRecorded()
		for i := range maxAttempts + 1 {
			r.change(fmt.Sprint(i), start, func(a *attempt) { a.process.add(processRecords[0]) })
		}
		require.Len(t, r.byID, maxAttempts)
		require.NotContains(t, r.byID, attemptOf("0"))
		require.Empty(t, r.events)
	})
	t.Run("attempts whose events were lost", func(t *testing.T) {
		r := newRecorded()
		r.change("a", start, func(a *attempt) { a.process.add(processRecords[0]) })
		r.expire(start.Add(loadPatience))
		require.Empty(t, r.byID)
	})
	t.Run("attempts that ended", func(t *testing.T) {
		r := newRecorded()
		for i := range 10 {
			e, back := readFile, returned(kmodquery.EventFinitModule, 0)
			e.LoadID, back.LoadID = fmt.Sprint(i), fmt.Sprint(i)
			r.add(e, start)
			r.add(back, start)
			r.expire(start)
		}
		require.Empty(t, r.byID)
		require.True(t, r.isIdle())
		for s := range stages {
			require.Zero(t, r.byStage[s].Len())
		}
	})
	t.Run("attempts that ended after an init that does not return", func(t *testing.T) {
		r := newRecorded()
		r.add(load, start)
		for i := range 10 {
			now := start.Add(time.Duration(i+1) * time.Minute)
			e, back := load, returned(kmodquery.EventFinitModule, 0)
			e.LoadID, back.LoadID = fmt.Sprint(i), fmt.Sprint(i)
			r.add(e, now)
			r.expire(now.Add(initPatience))
			r.add(back, now.Add(initPatience))
		}
		require.Len(t, r.byID, 1)
		require.Equal(t, 1, r.byStage[givenUp].Len())
	})
}

func TestKernelTakesPrecedenceOverTheCallersMemory(t *testing.T) {
	r := newRecorded()
	gone := free
	gone.Name = "rootkit"
	r.add(gone, start)
	call := returned(kmodquery.EventDeleteModule, 0)
	call.Name = "dummy"
	r.add(call, start)
	require.Equal(t, "rootkit", r.events[1].Name)

	r = newRecorded()
	r.add(load, start)
	call = returned(kmodquery.EventFinitModule, 0)
	call.Params = new("n=2")
	r.add(call, start)
	require.Equal(t, "n=1", *r.events[1].Params)

	// The caller's memory could not be read any more; the kernel had.
	r = newRecorded()
	r.add(load, start)
	call = returned(kmodquery.EventFinitModule, 0)
	call.Missing.Add("flags", "params")
	r.add(call, start)
	require.Equal(t, "n=1", *r.events[1].Params)
	require.Equal(t, "flags,"+unread, r.events[1].Missing.String())

	// Both were cut.
	r = newRecorded()
	cut := load
	cut.Missing.Add("params")
	r.add(cut, start)
	call = returned(kmodquery.EventFinitModule, 0)
	call.Params = new("n=2")
	call.Missing.Add("params")
	r.add(call, start)
	require.Equal(t, "n=1", *r.events[1].Params)
	require.Equal(t, "params,"+unread, r.events[1].Missing.String())
}

// The parameters in the kernel's copy take precedence over the caller's memory, which
// may change before and after.
func TestParamsAreThoseThatTheKernelTook(t *testing.T) {
	unknown := load
	unknown.Params = nil
	unknown.Missing.Add("params")
	forged := returned(kmodquery.EventFinitModule, -22)
	forged.Params = new("forged=1")
	away := returned(kmodquery.EventFinitModule, 0)
	away.Missing.Add("params")
	tests := []struct {
		name   string
		taken  bpf.Text
		before []kmodquery.Event
		after  []kmodquery.Event
		want   *string
		missed bool
	}{
		{"a load", bpf.Text{Value: "n=3"}, []kmodquery.Event{readFile}, []kmodquery.Event{unknown, away}, new("n=3"), false},
		{"none", bpf.Text{}, []kmodquery.Event{readFile}, []kmodquery.Event{unknown, away}, new(""), false},
		{"a parameter that cannot be", bpf.Text{Value: "n=x"}, []kmodquery.Event{readFile}, []kmodquery.Event{forged}, new("n=x"), false},
		{"cut", bpf.Text{Value: "n=3", Truncated: true}, []kmodquery.Event{readFile}, []kmodquery.Event{unknown, away}, new("n=3"), true},
		{"unreadable", bpf.Text{Missing: true}, []kmodquery.Event{readFile}, []kmodquery.Event{unknown, forged}, nil, true},
		{"the first that is known of the attempt", bpf.Text{Value: "n=3"}, nil, []kmodquery.Event{unknown, away}, new("n=3"), false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := newRecorded()
			for _, e := range test.before {
				r.add(e, start)
			}
			r.change("a", start, func(a *attempt) { a.params = &test.taken })
			for _, e := range test.after {
				r.add(e, start)
			}
			require.Len(t, r.events, len(test.before)+len(test.after))
			for _, e := range r.events {
				require.Equal(t, test.want, e.Params, e.EventName)
				require.Equal(t, test.missed, e.Missing.Has("params"), e.EventName)
			}
			require.Empty(t, r.byID)
		})
	}
}

// found is what the image of the module x says.
var found = imageInfo{isSigned: true, columns: kmodquery.Event{
	SHA256: "5a", ImageSHA256: "1a", HashSource: "kernel", Name: "x", Vermagic: "6.1", License: "GPL", Intree: new(int64(1)),
	Signer: "somebody", SignatureKeyID: "A0", SignatureHash: "sha256",
}}

// A step is something that happens to attempts, and the names of all events that
// they have emitted after it.
type step struct {
	do   func(*recorded)
	want []string
}

func TestAttemptWaitsForItsImage(t *testing.T) {
	at := func(e kmodquery.Event, now time.Time) func(*recorded) {
		return func(r *recorded) { r.add(e, now) }
	}
	expire := func(after time.Duration) func(*recorded) {
		return func(r *recorded) { r.expire(start.Add(after)) }
	}
	expect := func(r *recorded) { r.expectImage("a") }
	image := func(r *recorded) { r.setImage("a", found) }
	back := returned(kmodquery.EventFinitModule, 0)
	backInit := returned(kmodquery.EventInitModule, 0)
	none := []string{}
	begun := []string{"security_kernel_read_file", "module_load"}
	all := append(begun[:2:2], "finit_module")
	begunInit := []string{"security_kernel_load_data", "module_load", "init_module"}

	tests := []struct {
		name  string
		steps []step
		read  []bool // of each event: it has what the image says
	}{
		{"read before the module is live", []step{
			{at(readFile, start), none}, {expect, none}, {image, none}, {at(load, start), begun}, {at(back, start), all},
		}, []bool{true, true, true}},
		{"read before the call returns", []step{
			{at(readFile, start), none}, {expect, none}, {at(load, start), none}, {image, begun}, {at(back, start), all},
		}, []bool{true, true, true}},
		{"read after the call has returned", []step{
			{at(readFile, start), none}, {expect, none}, {at(load, start), none}, {at(back, start), none},
			{expire(imagePatience - 1), none}, {image, all},
		}, []bool{true, true, true}},
		{"read after a load that failed", []step{
			{at(readFile, start), none}, {expect, none}, {at(returned(kmodquery.EventFinitModule, -8), start), none},
			{image, []string{"security_kernel_read_file", "finit_module"}},
		}, []bool{true, true}},
		{"never read", []step{
			{at(readFile, start), none}, {expect, none}, {at(load, start), none}, {at(back, start), none},
			{expire(imagePatience - 1), none}, {expire(imagePatience), all}, {image, all},
		}, []bool{false, false, false}},
		{"never read, and nothing else happens", []step{
			{at(readFile, start), none}, {expect, none}, {expire(loadPatience), none}, {expire(loadPatience + imagePatience - 1), none},
			{expire(loadPatience + imagePatience), begun[:1]},
		}, []bool{false}},
		{"read after its events were written: it is for the return", []step{
			{at(readFile, start), none}, {expect, none}, {expire(loadPatience), none}, {expire(loadPatience + imagePatience), begun[:1]},
			{image, begun[:1]}, {at(load, start), begun}, {at(back, start), all},
		}, []bool{false, true, true}},
		{"read while the init does not return", []step{
			{at(loadData, start), none}, {expect, none}, {at(load, start), none}, {expire(initPatience), none},
			{image, begunInit}, {at(backInit, start), append(begunInit[:3:3], "sys_exit_init_module")},
		}, []bool{true, true, true, true}},
		{"never read while the init does not return", []step{
			{at(loadData, start), none}, {expect, none}, {at(load, start), none}, {expire(initPatience), none},
			{expire(initPatience + imagePatience - 1), none}, {expire(initPatience + imagePatience), begunInit},
			{image, begunInit}, {at(backInit, start), append(begunInit[:3:3], "sys_exit_init_module")},
		}, []bool{false, false, false, true}},
		{"read after an init that returned late", []step{
			{at(loadData, start), none}, {expect, none}, {at(load, start), none}, {expire(initPatience), none},
			{at(backInit, start.Add(initPatience)), none}, {expire(initPatience + imagePatience - 1), none}, {image, begunInit},
		}, []bool{true, true, true}},
		{"a query has waited long enough", []step{
			{at(readFile, start), none}, {expect, none}, {at(load, start), none}, {at(back, start), none},
			{(*recorded).finishAll, all}, {image, all},
		}, []bool{false, false, false}},
		{"a query has waited long enough, and the call goes on", []step{
			{at(readFile, start), none}, {expect, none}, {(*recorded).finishAll, begun[:1]}, {expect, begun[:1]},
			{at(load, start), begun}, {image, begun}, {at(back, start), all},
		}, []bool{false, false, true}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := newRecorded()
			for i, step := range test.steps {
				step.do(r)
				require.Equal(t, step.want, r.names(), "after step %d", i)
			}
			require.Len(t, r.events, len(test.read))
			for i, e := range r.events {
				if test.read[i] {
					require.Equal(t, "5a", e.SHA256, "event %d", i)
					require.Equal(t, "somebody", e.Signer, "event %d", i)
					require.NotContains(t, e.Missing, "sha256", "event %d", i)
				} else {
					require.Empty(t, e.SHA256, "event %d", i)
					require.Contains(t, e.Missing, unread, "event %d", i)
				}
			}
			require.True(t, r.isIdle())
			require.False(t, r.isWaitingForImages())
			require.Zero(t, r.next())
			if last := r.events[len(r.events)-1]; last.Result != nil {
				require.Empty(t, r.byID)
			}
		})
	}
}

func (r *recorded) finishAll() { r.finish(forever) }

// A reader that is behind reads the events long after the image.
func TestFinishDoesNotGiveUpEventsThatWereReadLater(t *testing.T) {
	r := newRecorded()
	id := attemptOf("a")
	r.addChunk(&bpf.Chunk{Attempt: id.begin, Tid: id.tid, Size: 5, Data: []byte("image"), Position: at(1)}, start)
	later := start.Add(time.Minute)
	r.add(readFile, later)
	r.expectImage("a")
	r.add(load, later)
	r.finish(later.Add(-1))
	r.expire(later)
	require.Empty(t, r.events)
	r.setImage("a", found)
	require.Equal(t, []string{"security_kernel_read_file", "module_load"}, r.names())
	require.Equal(t, "5a", r.events[0].SHA256)
}

func TestGivenUpAttemptDoesNotWaitForItsImage(t *testing.T) {
	r := newRecorded()
	r.add(readFile, start)
	r.finish(forever)
	r.expectImage("a")
	require.False(t, r.isWaitingForImages())
}

// The record of the read was lost.
func TestImageIsKeptForLaterEvents(t *testing.T) {
	r := newRecorded()
	r.expectImage("a")
	require.False(t, r.isIdle())
	r.setImage("a", found)
	r.add(load, start)
	require.Equal(t, []string{"module_load"}, r.names())
	require.Equal(t, "5a", r.events[0].SHA256)
}

func TestNextIsTheEndOfTheFirstStage(t *testing.T) {
	r := newRecorded()
	r.add(readFile, start)
	r.expectImage("a")
	require.True(t, r.isWaitingForImages())
	require.Equal(t, start.Add(loadPatience), r.next())
	r.add(load, start.Add(time.Second))
	require.Equal(t, start.Add(time.Second+initPatience), r.next())
	r.add(returned(kmodquery.EventFinitModule, 0), start.Add(2*time.Second))
	require.False(t, r.isIdle())
	require.Equal(t, start.Add(2*time.Second+imagePatience), r.next())

	t.Run("of several attempts", func(t *testing.T) {
		r := newRecorded()
		both := func(e kmodquery.Event, now time.Time) {
			for _, id := range []string{"a", "b"} {
				e.LoadID = id
				r.add(e, now)
				r.expectImage(id)
			}
		}
		both(loadData, start)
		both(load, start)
		r.expire(start.Add(initPatience)) // both wait for their images
		r.add(returned(kmodquery.EventInitModule, 0), start.Add(initPatience+imagePatience-1))
		r.expire(start.Add(initPatience + imagePatience))
		var written []string
		for _, e := range r.events {
			if e.LoadID == "b" {
				written = append(written, e.EventName)
			}
		}
		require.Equal(t, []string{"security_kernel_load_data", "module_load", "init_module"}, written)
	})
}

// A module's init can make the kernel read any number of files while its image is
// being read.
func TestHeldEventsAreBounded(t *testing.T) {
	r := newRecorded()
	r.add(readFile, start)
	r.expectImage("a")
	firmware := kmodquery.Event{EventName: kmodquery.EventSecurityKernelReadFile, LoadID: "a", Type: "firmware", Path: "/lib/firmware/x"}
	for range 1000 {
		r.add(firmware, start)
		require.Less(t, len(r.byID[attemptOf("a")].held), maxHeldEvents)
	}
	require.Len(t, r.events, 1001, "all of them are emitted")
	r.add(load, start)
	r.add(returned(kmodquery.EventFinitModule, 0), start)
	require.Len(t, r.events, 1003)
	require.Equal(t, "x", r.events[1002].Name)
	require.Empty(t, r.byID)
}

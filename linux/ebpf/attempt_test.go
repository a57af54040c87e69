//go:build linux

package ebpf

import (
	"fmt"
	"testing"
	"time"

	"github.com/kmodquery/kmodquery/linux/host"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/bpf"
)

// recorded is attempts with everything that it emitted.
type recorded struct {
	*attempts
	events []kmodquery.Event
}

// forever is after all that begins in a test.
var forever = start.Add(1000 * time.Hour)

func newRecorded() *recorded {
	r := &recorded{}
	r.attempts = newAttempts(func(d kmodquery.Delivery) { r.events = append(r.events, d.Event) }, func(string) bool { return false }, func(string) {})
	return r
}

// add adds an event without a deduplication key.
func (r *recorded) add(e kmodquery.Event, now time.Time) {
	r.attempts.add(kmodquery.Delivery{Event: e}, now)
}

// expire lets time pass until a moment, with everything read.
func (r *recorded) expire(now time.Time) { r.attempts.expire(now, now) }

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

// unread is Missing where there was no image.
const unread = "sha256,image_sha256,vermagic,license,intree,signer,signature_key_id,signature_hash"

func returned(name string, result int64) kmodquery.Event {
	return kmodquery.Event{EventName: name, LoadID: "a", Result: &result, Error: host.ErrnoName(result)}
}

func TestAttemptGivesEveryEventWhatTheOthersKnow(t *testing.T) {
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
	require.True(t, r.idle())
}

func TestAttemptOfFailedLoads(t *testing.T) {
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

func TestAttemptReportsAnInitThatDoesNotReturn(t *testing.T) {
	r := newRecorded()
	r.add(loadData, start)
	r.add(load, start)
	r.expire(start.Add(initPatience - 1))
	require.False(t, r.idle(), "the call has not returned")
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

// The kernel may read a file slowly, or wait for other loads; nothing of the
// module runs before it is live, so the rows can wait for its name.
func TestAttemptWaitsForALoadThatTakesLong(t *testing.T) {
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

func TestAttemptHoldsNothingBack(t *testing.T) {
	t.Run("when a query has waited long enough", func(t *testing.T) {
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
	t.Run("after patience has ended", func(t *testing.T) {
		r := newRecorded()
		r.add(load, start)
		r.expire(start.Add(initPatience))
		r.add(readFile, start)
		require.Equal(t, []string{"module_load", "security_kernel_read_file"}, r.names())
	})
	t.Run("without an attempt", func(t *testing.T) {
		r := newRecorded()
		e := load
		e.LoadID = ""
		r.add(e, start)
		require.Len(t, r.events, 1)
	})
}

func TestAttemptForgetsTheOldest(t *testing.T) {
	fill := func(r *recorded, n int) {
		for i := range n {
			e := loadData
			e.LoadID = fmt.Sprint(i)
			r.add(e, start)
		}
	}
	t.Run("and writes what it held back", func(t *testing.T) {
		r := newRecorded()
		fill(r, maxAttempts+1)
		require.Equal(t, []string{"security_kernel_load_data", "init_module"}, r.names())
		require.Len(t, r.byID, maxAttempts)
	})
	t.Run("of those that hold nothing back first", func(t *testing.T) {
		r := newRecorded()
		r.add(loadData, start)
		r.finish(forever)
		fill(r, maxAttempts)
		require.Len(t, r.events, 2)
		require.NotContains(t, r.byID, "a")
	})
	t.Run("and keeps no trace of what ended", func(t *testing.T) {
		r := newRecorded()
		for i := range 3 * maxAttempts {
			e, back := readFile, returned(kmodquery.EventFinitModule, 0)
			e.LoadID, back.LoadID = fmt.Sprint(i), fmt.Sprint(i)
			r.add(e, start)
			r.add(back, start)
			r.expire(start)
		}
		require.Empty(t, r.byID)
		require.True(t, r.idle())
		require.Empty(t, r.loading)
		require.Empty(t, r.running)
		require.Empty(t, r.imaging)
		require.Empty(t, r.stuck)
	})
	t.Run("and keeps no trace of what ended behind an init that never does", func(t *testing.T) {
		r := newRecorded()
		r.add(load, start)
		for i := range 3 * maxAttempts {
			now := start.Add(time.Duration(i+1) * time.Minute)
			e, back := load, returned(kmodquery.EventFinitModule, 0)
			e.LoadID, back.LoadID = fmt.Sprint(i), fmt.Sprint(i)
			r.add(e, now)
			r.expire(now.Add(initPatience))
			r.add(back, now.Add(initPatience))
		}
		require.Len(t, r.byID, 1)
		require.LessOrEqual(t, len(r.stuck), 2*maxAttempts)
	})
}

func TestAttemptTrustsTheKernelsWordsMore(t *testing.T) {
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

// What the kernel took is what every event says, whatever stood in the caller's
// memory before or after.
func TestAttemptOfParamsThatTheKernelTook(t *testing.T) {
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
			r.addParams("a", test.taken, start)
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

// A step is something that happens to attempts, and the names of all events
// that it has emitted after it.
type step struct {
	do   func(*recorded)
	want []string
}

// Holding back for an image: x is what the steps end with.
func TestAttemptWaitsForTheImage(t *testing.T) {
	at := func(e kmodquery.Event, now time.Time) func(*recorded) {
		return func(r *recorded) { r.add(e, now) }
	}
	expire := func(after time.Duration) func(*recorded) {
		return func(r *recorded) { r.expire(start.Add(after)) }
	}
	expect := func(r *recorded) { r.expectImage("a") }
	image := func(r *recorded) { r.addImage("a", found) }
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
			require.True(t, r.idle())
			require.False(t, r.isWaitingForImages())
			require.Zero(t, r.next())
			if last := r.events[len(r.events)-1]; last.Result != nil {
				require.Empty(t, r.byID)
			}
		})
	}
}

func (r *recorded) finishAll() { r.finish(forever) }

func TestAttemptOfImagesThatNobodyWaitsFor(t *testing.T) {
	r := newRecorded()
	r.expectImage("a")
	r.addImage("a", found)
	require.Empty(t, r.byID)
	r.add(readFile, start)
	r.expectImage("b")
	require.False(t, r.isWaitingForImages())
	r.addImage("b", found)
	r.add(returned(kmodquery.EventFinitModule, -8), start)
	require.Equal(t, []string{"security_kernel_read_file", "finit_module"}, r.names())
	require.Empty(t, r.events[0].SHA256)

	r = newRecorded()
	r.add(readFile, start)
	r.finish(forever)
	r.expectImage("a")
	require.False(t, r.isWaitingForImages(), "nothing of it is held back any more")
}

// The end of patience is told in time to whoever waits for it.
func TestAttemptTellsWhenPatienceWithAnImageEnds(t *testing.T) {
	r := newRecorded()
	r.add(readFile, start)
	r.expectImage("a")
	require.True(t, r.isWaitingForImages())
	require.Equal(t, start.Add(loadPatience), r.next())
	r.add(load, start.Add(time.Second))
	require.Equal(t, start.Add(time.Second+initPatience), r.next())
	r.add(returned(kmodquery.EventFinitModule, 0), start.Add(2*time.Second))
	require.False(t, r.idle())
	require.Equal(t, start.Add(2*time.Second+imagePatience), r.next())

	t.Run("of each", func(t *testing.T) {
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

// A module's init may have the kernel read files without end, while its image is
// still being read.
func TestAttemptBoundsWhatAnAttemptHolds(t *testing.T) {
	r := newRecorded()
	r.add(readFile, start)
	r.expectImage("a")
	firmware := kmodquery.Event{EventName: kmodquery.EventSecurityKernelReadFile, LoadID: "a", Type: "firmware", Path: "/lib/firmware/x"}
	for range 1000 {
		r.add(firmware, start)
		require.Less(t, len(r.byID["a"].held), maxHeldEvents)
	}
	require.Len(t, r.events, 1001, "all of them are told of")
	r.add(load, start)
	r.add(returned(kmodquery.EventFinitModule, 0), start)
	require.Len(t, r.events, 1003)
	require.Equal(t, "x", r.events[1002].Name)
	require.Empty(t, r.byID)
}

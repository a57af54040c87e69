//go:build linux

package linux

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

// recorded is a joiner with everything that it emitted.
type recorded struct {
	*joiner
	events []kmodquery.Event
}

func newRecorded() *recorded {
	r := &recorded{}
	r.joiner = newJoiner(func(e kmodquery.Event) { r.events = append(r.events, e) })
	return r
}

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

func returned(name string, result int64) kmodquery.Event {
	return kmodquery.Event{EventName: name, LoadID: "a", Result: &result, Error: errnoName(result)}
}

func TestJoinGivesEveryEventWhatTheOthersKnow(t *testing.T) {
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
	require.Empty(t, r.attempts)
	require.True(t, r.idle())
}

func TestJoinOfFailedLoads(t *testing.T) {
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
			require.Empty(t, r.attempts)
		})
	}
}

func TestJoinReportsAnInitThatDoesNotReturn(t *testing.T) {
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
	require.Equal(t, "result", call.Missing)
	require.Equal(t, "x", call.Name)
	r.expire(start.Add(time.Hour))
	require.Len(t, r.events, 3, "it is reported once")
	require.Zero(t, r.next())

	r.add(returned(kmodquery.EventInitModule, 0), start.Add(time.Hour))
	require.Len(t, r.events, 4)
	require.Equal(t, "sys_exit_init_module", r.events[3].EventName)
	require.EqualValues(t, 0, *r.events[3].Result)
	require.Empty(t, r.attempts)
}

// The kernel may read a file slowly, or wait for other loads; nothing of the
// module runs before it is live, so the rows can wait for its name.
func TestJoinWaitsForALoadThatTakesLong(t *testing.T) {
	r := newRecorded()
	r.add(loadData, start)
	r.expire(start.Add(loadPatience - 1))
	require.Empty(t, r.events)
	r.add(load, start.Add(loadPatience-1))
	r.add(returned(kmodquery.EventInitModule, 0), start.Add(loadPatience))
	require.Equal(t, []string{"security_kernel_load_data", "module_load", "init_module"}, r.names())
	for _, e := range r.events {
		require.Equal(t, "x", e.Name)
		require.Empty(t, e.Missing)
	}

	r = newRecorded()
	r.add(loadData, start)
	require.Equal(t, start.Add(loadPatience), r.next())
	r.expire(start.Add(loadPatience))
	require.Equal(t, []string{"security_kernel_load_data", "init_module"}, r.names())
}

func TestJoinHoldsNothingBack(t *testing.T) {
	t.Run("when a query has waited long enough", func(t *testing.T) {
		r := newRecorded()
		r.add(readFile, start)
		r.finish()
		require.Equal(t, []string{"security_kernel_read_file"}, r.names())
		require.Equal(t, "name", r.events[0].Missing)
		r.add(load, start)
		require.Len(t, r.events, 2)
		require.Equal(t, "/tmp/x.ko", r.events[1].Path)
	})
	t.Run("when the source ends", func(t *testing.T) {
		r := newRecorded()
		r.add(loadData, start)
		r.finish()
		require.Equal(t, []string{"security_kernel_load_data", "init_module"}, r.names())
		require.Equal(t, "name,result", r.events[1].Missing)
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

func TestJoinForgetsTheOldest(t *testing.T) {
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
		require.Len(t, r.attempts, maxAttempts)
	})
	t.Run("of those that hold nothing back first", func(t *testing.T) {
		r := newRecorded()
		r.add(loadData, start)
		r.finish()
		fill(r, maxAttempts)
		require.Len(t, r.events, 2)
		require.NotContains(t, r.attempts, "a")
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
		require.Empty(t, r.attempts)
		require.True(t, r.idle())
		require.Empty(t, r.loading)
		require.Empty(t, r.running)
		require.Empty(t, r.stuck)
	})
}

func TestJoinTrustsTheKernelsWordsMore(t *testing.T) {
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
	call.Miss("flags", "params")
	r.add(call, start)
	require.Equal(t, "n=1", *r.events[1].Params)
	require.Equal(t, "flags", r.events[1].Missing)
}

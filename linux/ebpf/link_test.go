//go:build linux

package ebpf

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/bpf"
)

// restarted returns the reader of a process that starts when everything was stored that
// r has emitted, and whose records were released.
func (r *reading) restarted() *reading {
	next := newReading(r.t)
	next.attempts.acks.start(r.keys)
	next.position = r.position
	return next
}

var (
	loadDataRecord = record(bpf.LoadData, func(r *bpf.Record) { r.File = &bpf.File{ID: 2, IsModule: true, HasArguments: true, Size: 9} })
	initReturns    = record(bpf.SystemCall, func(r *bpf.Record) {
		r.Call = &bpf.Call{Name: bpf.InitModule, HasArguments: true, Size: 9, Taken: true}
	})
)

// The module's init runs for longer than a recorder.
func TestReturnAfterARestartIsNoSecondCall(t *testing.T) {
	r := newReading(t)
	r.take(processRecords...)
	r.take(loadDataRecord, taken, liveRecord)
	r.found(r.wanted[0], found)
	require.NoError(t, r.expire(start.Add(initPatience)))
	require.Equal(t, []string{"security_kernel_load_data", "module_load", "init_module"}, r.names())
	require.Equal(t, "result", r.events[2].Missing.String())

	next := r.restarted()
	next.take(initReturns)
	require.Equal(t, []string{"sys_exit_init_module"}, next.names())
	e := next.events[0]
	require.EqualValues(t, 0, *e.Result)
	require.Equal(t, r.events[0].LoadID, e.LoadID)
	require.Equal(t, "memory", e.Origin)
	for _, column := range []string{"name", "sha256", "signer", "taints", "process_path"} {
		require.True(t, e.Missing.Has(column), column)
	}
	require.False(t, e.Missing.Has("path"), "it has none")
	require.Equal(t, "unknown", e.SignatureStatus)

	// The call is stored before the module is live.
	early := newReading(t)
	early.take(loadDataRecord)
	require.NoError(t, early.finish(time.Now()))
	require.Equal(t, []string{"security_kernel_load_data", "init_module"}, early.names())
	require.True(t, early.events[1].IsLoadReport())
	next = early.restarted()
	next.take(liveRecord, initReturns)
	require.Equal(t, []string{"module_load", "sys_exit_init_module"}, next.names())
	for i := range next.events {
		require.False(t, next.events[i].IsLoadReport(), "the call stands for the load")
	}

	// Where nothing is stored of the call its records were lost.
	lost := newReading(t)
	lost.take(initReturns)
	require.Equal(t, []string{"init_module"}, lost.names())
	require.Contains(t, lost.events[0].Missing, "sha256")

	// The return of a file's load lacks its columns too.
	file := returns
	file.Call = &bpf.Call{Name: bpf.FinitModule, HasArguments: true, Taken: true, Result: -19}
	next.take(file)
	last := next.events[len(next.events)-1]
	require.Equal(t, "finit_module", last.EventName)
	for _, column := range []string{"name", "path", "origin", "filesystem", "device", "inode", "size", "mtime", "ctime", "sha256"} {
		require.True(t, last.Missing.Has(column), column)
	}
}

// The record of a call that was read twice is emitted once.
func TestCallWithoutResultIsEmittedOnce(t *testing.T) {
	r := newReading(t)
	r.take(loadDataRecord, liveRecord)
	require.NoError(t, r.expire(start.Add(initPatience)))
	require.Len(t, r.events, 3)

	next := r.restarted()
	next.position = 0 // nothing was released
	next.take(loadDataRecord, liveRecord, initReturns)
	require.Equal(t, []string{"sys_exit_init_module"}, next.names())
}

func TestLoadWithoutItsFirstRecordsLacksTheFile(t *testing.T) {
	r := newReading(t)
	r.take(liveRecord)
	require.Len(t, r.events, 1)
	for _, column := range []string{"path", "origin", "filesystem", "device", "inode", "size", "mtime", "ctime", "sha256"} {
		require.True(t, r.events[0].Missing.Has(column), column)
	}
	require.False(t, r.events[0].Missing.Has("name"))

	back := returns
	back.Call = &bpf.Call{Name: bpf.FinitModule, HasArguments: true, Taken: true}
	r.take(back)
	require.True(t, r.events[1].Missing.Has("path"))
	for _, column := range []string{"taints", "version", "parent_load_id"} {
		require.False(t, r.events[1].Missing.Has(column), column)
	}
}

// inThread returns a record of an attempt of another thread.
func inThread(tid uint32, begin, at time.Duration, record bpf.Record) bpf.Record {
	record.Tid, record.Attempt, record.Context, record.Boot = tid, begin, begin, at
	return record
}

// From Linux 6.4 on the second of two calls that load one file at once waits for the
// first, and returns its result without reading the file.
func TestCallThatWaitedForAnotherLoad(t *testing.T) {
	waits := func(result int64) bpf.Record {
		return record(bpf.SystemCall, func(r *bpf.Record) {
			r.Call = &bpf.Call{Name: bpf.FinitModule, HasArguments: true, Result: result, Inode: ofFile.Inode, Device: ofFile.Device}
		})
	}
	fails := func(result int64) bpf.Record {
		return record(bpf.SystemCall, func(r *bpf.Record) {
			r.Call = &bpf.Call{Name: bpf.FinitModule, HasArguments: true, Result: result, Taken: true}
		})
	}
	other := func(r *bpf.Record) { r.Call.Inode++ }
	first := translate.loadID(attemptID{100, 1})
	for _, test := range []struct {
		name    string
		records []bpf.Record
		parent  string
		missing bool
	}{
		{"after the first", []bpf.Record{
			inThread(1, 100, 110, readRecord), inThread(1, 100, 150, fails(0)), inThread(2, 120, 160, waits(0))}, first, true},
		{"before the first", []bpf.Record{
			inThread(1, 100, 110, readRecord), inThread(2, 120, 160, waits(0))}, first, true},
		{"the first failed", []bpf.Record{
			inThread(1, 100, 110, readRecord), inThread(1, 100, 150, fails(-22)), inThread(2, 120, 160, waits(-22))}, first, true},
		{"invalid flags during another load", []bpf.Record{
			inThread(1, 100, 110, readRecord), inThread(2, 120, 121, waits(-22)), inThread(1, 100, 150, fails(0))}, "", false},
		{"invalid flags after a load that failed", []bpf.Record{
			inThread(1, 100, 110, readRecord), inThread(1, 100, 150, fails(-22)), inThread(2, 151, 152, waits(-22))}, "", false},
		{"another result than the first", []bpf.Record{
			inThread(1, 100, 110, readRecord), inThread(1, 100, 150, fails(-22)), inThread(2, 120, 160, waits(-4))}, "", true},
		{"the first was over", []bpf.Record{
			inThread(1, 100, 110, readRecord), inThread(1, 100, 150, fails(0)), inThread(2, 151, 160, waits(0))}, "", true},
		{"of another file", []bpf.Record{
			inThread(1, 100, 110, readRecord), inThread(2, 120, 160, record(bpf.SystemCall, func(r *bpf.Record) { *r = waits(0); other(r) }))}, "", true},
		{"its records were lost", []bpf.Record{inThread(2, 120, 160, waits(-17))}, "", true},
		{"a file that is open for writing", []bpf.Record{inThread(2, 120, 160, waits(-26))}, "", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newReading(t)
			r.take(test.records...)
			require.NoError(t, r.finish(time.Now()))
			var e *kmodquery.Event
			for i := range r.events {
				if *r.events[i].Tid == 2 {
					require.Nil(t, e)
					e = &r.events[i]
				}
			}
			require.NotNil(t, e)
			require.Equal(t, "finit_module", e.EventName)
			require.NotEqual(t, first, e.LoadID)
			require.Equal(t, test.parent, e.ParentLoadID)
			require.Equal(t, test.missing && test.parent == "", e.Missing.Has("parent_load_id"))
			for _, column := range []string{"name", "path", "origin", "filesystem", "size", "mtime", "ctime", "sha256", "signer"} {
				require.Equal(t, test.missing, e.Missing.Has(column), column)
			}
			require.NotNil(t, e.Inode)
			require.NotNil(t, e.Device)
		})
	}
}

func TestLoadedFilesAreBounded(t *testing.T) {
	r := newReading(t)
	for i := range 2 * maxFiles {
		file := ofFile
		file.Inode = uint64(i)
		r.take(inThread(1, time.Duration(i+1), 0, record(bpf.ReadFile, func(r *bpf.Record) { r.File = &file })))
	}
	require.Len(t, r.loads.byKey, maxFiles)
	require.Len(t, r.loads.order, maxFiles)
}

//go:build linux

package ebpf

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/kmodquery/kmodquery/linux/host"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/bpf"
	"github.com/kmodquery/kmodquery/test/leak"
)

// reading is a reader with the events that it emitted and the images that it wanted.
type reading struct {
	*reader
	t        *testing.T
	counts   *fakeCounts
	events   []kmodquery.Event
	keys     []string // of the events
	wanted   []imageJob
	position uint64
}

func newReading(t *testing.T) *reading {
	leak.Check(t)
	r := &reading{t: t, counts: newFakeCounts()}
	d := newDenials()
	d.begin(r.counts, nil, start)
	attempts := newAttempts(newAckTracker(), &fakeRelease{}, func(d kmodquery.Delivery) {
		r.events, r.keys = append(r.events, d.Event), append(r.keys, d.Key)
	})
	r.reader = newReader(translate, d, attempts, func(job imageJob) { r.wanted = append(r.wanted, job) })
	return r
}

func (r *reading) take(records ...bpf.Record) {
	for _, record := range records {
		r.position += 10
		require.NoError(r.t, r.reader.take(record, at(r.position), 10, start))
	}
}

// found completes the reading of an image.
func (r *reading) found(job imageJob, info imageInfo) {
	(&images{attempts: r.attempts, wake: func() error { return nil }}).done(job, info)
}

// expire expires attempts when every record until now was read.
func (r *reading) expire(now time.Time) error { return r.drained(now) }

func (r *reading) names() []string { return (&recorded{events: r.events}).names() }

var (
	ofFile     = bpf.File{ID: 2, IsModule: true, Path: "/tmp/x.ko", Filesystem: "ext4", Inode: 5, Links: 1, Size: 9, HasArguments: true}
	readRecord = record(bpf.ReadFile, func(r *bpf.Record) { r.File = &ofFile })
	taken      = record(bpf.ImageTaken, func(r *bpf.Record) { r.Image = &bpf.Image{Attempt: insmod.Attempt, Size: 9, Sent: true} })
	parsed     = record(bpf.ParamsTaken, func(r *bpf.Record) { r.Params = &bpf.Text{Value: "n=1"} })
	liveRecord = record(bpf.ModuleLoad, func(r *bpf.Record) { r.Module = &bpf.Module{Name: "x", SigOK: new(false)} })
	returns    = record(bpf.SystemCall, func(r *bpf.Record) { r.Call = &bpf.Call{Name: bpf.FinitModule, HasArguments: true} })
)

func TestReaderMergesALoad(t *testing.T) {
	r := newReading(t)
	r.take(processRecords...)
	require.Empty(t, r.events, "they only add columns to events")
	r.take(readRecord, taken, parsed, liveRecord, returns)
	require.Empty(t, r.events, "the image is about to be known")

	id := translate.loadID(attemptID{insmod.Attempt, insmod.Tid})
	require.Len(t, r.wanted, 1)
	job := r.wanted[0]
	require.Same(t, r.attempts.byID[attemptID{insmod.Attempt, insmod.Tid}], job.attempt)
	require.Equal(t, imageJob{attempt: job.attempt, loadID: id, sent: true, file: &ofFile, pid: insmod.Pid}, job)
	r.found(job, found)
	require.Empty(t, r.events, "only expire joins")
	require.NoError(t, r.expire(start))

	require.Equal(t, []string{"security_kernel_read_file", "module_load", "finit_module"}, r.names())
	for _, e := range r.events {
		require.Equal(t, id, e.LoadID)
		require.Equal(t, "/sbin/insmod", e.ProcessPath, e.EventName)
		require.Equal(t, "insmod x.ko", e.Cmdline, e.EventName)
		require.Equal(t, "/tmp/x.ko", e.Path, e.EventName)
		require.Equal(t, "n=1", *e.Params, e.EventName)
		require.Equal(t, "5a", e.SHA256, e.EventName)
		require.Equal(t, "untrusted", e.SignatureStatus, e.EventName)
		require.Empty(t, e.Missing, e.EventName)
		require.Empty(t, e.RequestedBy, e.EventName)
	}
	require.Empty(t, r.attempts.byID)
	require.Empty(t, r.attempts.read)
}

func TestImageThatIsNotSentIsWanted(t *testing.T) {
	r := newReading(t)
	lost := taken
	lost.Image = &bpf.Image{Attempt: insmod.Attempt, Size: 9}
	r.take(lost) // the records of its process were lost
	require.Len(t, r.wanted, 1)
	require.Equal(t, imageJob{attempt: r.wanted[0].attempt, loadID: translate.loadID(attemptID{insmod.Attempt, insmod.Tid}), pid: insmod.Pid}, r.wanted[0])
}

func TestRecordOutsideOfACallIsEmittedAtOnce(t *testing.T) {
	r := newReading(t)
	once := func(records ...bpf.Record) {
		for _, record := range records {
			record.Attempt, record.Context = 0, 700
			r.take(record)
		}
	}
	firmware := record(bpf.ReadFile, func(r *bpf.Record) { r.File = &bpf.File{ID: 1, Path: "/lib/firmware/x"} })
	once(append(processRecords[:len(processRecords):len(processRecords)], firmware)...)
	require.Len(t, r.events, 1)
	require.Equal(t, "firmware", r.events[0].Type)
	require.Equal(t, "/sbin/insmod", r.events[0].ProcessPath)
	require.Empty(t, r.events[0].Missing)
	require.Empty(t, r.attempts.byID)

	once(firmware)
	require.Equal(t, "process_path,cwd,cmdline,cgroup,container_id,ancestors", r.events[1].Missing.String())
}

func TestRecordsBelongToTheirOwnAttempt(t *testing.T) {
	r := newReading(t)
	ofAttempt := func(record bpf.Record, begin time.Duration, tid uint32) bpf.Record {
		record.Context, record.Tid = begin, tid
		if record.Attempt != 0 {
			record.Attempt = begin
		}
		return record
	}
	for tid := range uint32(3) {
		for begin := range time.Duration(3) {
			r.take(ofAttempt(pathRecord(bpf.Path{Role: bpf.Cwd, Value: fmt.Sprint(int(begin+1), tid)}), begin+1, tid))
		}
	}
	r.take(ofAttempt(liveRecord, 2, 1), ofAttempt(liveRecord, 1, 2), ofAttempt(liveRecord, 4, 1))
	require.Equal(t, "2 1", r.events[0].Cwd)
	require.Equal(t, "1 2", r.events[1].Cwd)
	require.Empty(t, r.events[2].Cwd)
}

func TestAttemptIsForgottenWithItsLastRecord(t *testing.T) {
	for _, test := range []struct {
		name   string
		record bpf.Record
		isLast bool
	}{
		{"the kernel is about to read", readRecord, false},
		{"live", liveRecord, false},
		{"gone", record(bpf.ModuleFree, func(r *bpf.Record) { r.Module = &bpf.Module{Name: "x"} }), false},
		{"returned", returns, true},
		{"request", request(insmod.Attempt, "x"), true},
		{"no attempt", record(bpf.ReadFile, func(r *bpf.Record) { r.Attempt, r.File = 0, &ofFile }), true},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newReading(t)
			r.take(processRecords[1], test.record)
			require.Equal(t, test.isLast, len(r.attempts.byID) == 0)
			require.NoError(t, r.finish(time.Now()))
			require.Equal(t, "/root", r.events[0].Cwd, "it is there for the record itself")
		})
	}
}

// request is the record of a request for a module by a thread of insmod's
// process.
func request(at time.Duration, name string) bpf.Record {
	return record(bpf.ModuleRequest, func(r *bpf.Record) {
		r.Attempt, r.Context = at, at
		r.Module = &bpf.Module{Name: name}
	})
}

func TestRequestedByNamesTheRequester(t *testing.T) {
	r := newReading(t)
	for _, record := range processRecords {
		record.Context = 500
		r.take(record)
	}
	r.take(request(500, "fs-xfs"))
	require.Len(t, r.events, 1, "it waits for nothing")
	require.Empty(t, r.events[0].RequestedBy)
	require.Empty(t, r.attempts.byID)
	asked := r.events[0].LoadID
	require.Equal(t, translate.loadID(attemptID{500, insmod.Tid}), asked)

	for _, loaded := range []bpf.Record{readRecord, liveRecord, returns} {
		loaded.Pid, loaded.Tid, loaded.Comm, loaded.Request, loaded.RequestTid = 80, 81, "modprobe", 500, insmod.Tid
		r.take(loaded)
	}
	require.Len(t, r.events, 4)
	for _, e := range r.events[1:] {
		require.JSONEq(t, `{"pid":10,"path":"/sbin/insmod","comm":"insmod","cmdline":"insmod x.ko","uid":1000,"request":"fs-xfs"}`, e.RequestedBy)
		require.Equal(t, asked, e.ParentLoadID)
		require.NotEqual(t, asked, e.LoadID)
		require.NotContains(t, e.Missing, "requested_by")
		require.EqualValues(t, 80, *e.Pid)
	}
}

func TestRequestedByNamesTheContainer(t *testing.T) {
	r := newReading(t)
	cgroup := pathRecord(bpf.Path{Role: bpf.Cgroup, Value: "/lxc.payload.web"})
	cgroup.Context = 500
	r.take(cgroup, request(500, "net-pf-\"1"))
	loaded := returns
	loaded.Request, loaded.RequestTid = 500, insmod.Tid
	r.take(loaded)
	require.JSONEq(t, `{"pid":10,"path":"","comm":"insmod","uid":1000,"container_id":"web","request":"net-pf-\"1"}`, r.events[1].RequestedBy)
	require.True(t, r.events[1].Missing.Has("requested_by"), "records of the requester were lost")
}

// A module's init has the kernel start a program, which loads another module.
func TestALoadByAProgramOfAnInitHasTheOuterLoadAsItsParent(t *testing.T) {
	r := newReading(t)
	r.take(loadDataRecord, liveRecord)
	for _, loaded := range []bpf.Record{readRecord, liveRecord, returns} {
		loaded.Pid, loaded.Tid, loaded.Attempt = 80, 81, 700
		loaded.Request, loaded.RequestTid = loadDataRecord.Attempt, loadDataRecord.Tid
		r.take(loaded)
	}
	r.take(initReturns)
	outer := translate.loadID(attemptID{loadDataRecord.Attempt, loadDataRecord.Tid})
	inner := 0
	for _, e := range r.events {
		if e.LoadID != outer {
			inner++
			require.Equal(t, outer, e.ParentLoadID)
			require.Empty(t, e.RequestedBy)
			require.False(t, e.Missing.Has("requested_by"), "no process requested it")
		}
	}
	require.Equal(t, 3, inner)
}

// The program that the kernel started has ended, and left the loader behind.
func TestRequestedByIsMissingIfTheHelperHasEnded(t *testing.T) {
	r := newReading(t)
	loaded := returns
	loaded.IsRequestUnknown = true
	r.take(loaded)
	require.Empty(t, r.events[0].RequestedBy)
	require.Empty(t, r.events[0].ParentLoadID)
	require.True(t, r.events[0].Missing.Has("requested_by"))
}

// The request's record was lost, or is too old.
func TestRequestedByIsMissingWithoutTheRequest(t *testing.T) {
	r := newReading(t)
	loaded := returns
	loaded.Request, loaded.RequestTid = 500, 50
	r.take(loaded)
	require.Empty(t, r.events[0].RequestedBy)
	require.Contains(t, r.events[0].Missing, "requested_by")
	require.Equal(t, translate.loadID(attemptID{500, 50}), r.events[0].ParentLoadID)

	r = newReading(t)
	for i := range 3 * maxRequests {
		r.take(request(time.Duration(i+1), "x"))
	}
	require.Len(t, r.events, 3*maxRequests)
	require.Len(t, r.requests.byKey, maxRequests)
}

func TestReaderFoldsDeniedCalls(t *testing.T) {
	r := newReading(t)
	kind := deniedKind(t, 1)
	denied := record(bpf.SystemCall, func(r *bpf.Record) {
		r.Call = &bpf.Call{Name: bpf.InitModule, Result: -1, HasArguments: true, Size: 9, Denied: &kind}
	})
	r.counts.calls[kind.In(at(0))] = 1000
	r.take(processRecords...)
	r.take(denied)
	require.Empty(t, r.attempts.byID)
	require.Empty(t, r.attempts.byID)
	require.NoError(t, r.expire(r.denials.due.Add(-1)))
	require.Empty(t, r.events)
	due := r.denials.due
	require.Equal(t, due, r.deadline())
	require.NoError(t, r.expire(due))
	require.Len(t, r.events, 1)
	e := r.events[0]
	require.EqualValues(t, 1000, *e.Count)
	require.Equal(t, "EPERM", e.Error)
	require.Equal(t, "/sbin/insmod", e.ProcessPath)
	require.Empty(t, e.SignatureStatus)
	require.True(t, e.IsUnprivileged())
	require.Equal(t, due.Add(foldFor), r.deadline())

	r.counts.calls[kind.In(at(0))] += 5
	require.NoError(t, r.finish(time.Now()), "a query asks sooner")
	require.Len(t, r.events, 2)
	require.EqualValues(t, 5, *r.events[1].Count)

	// The same call that was refused for the module's sake is evidence.
	refused := denied
	refused.Call = &bpf.Call{Name: bpf.InitModule, Result: -1}
	r.take(refused)
	require.Len(t, r.events, 3)
}

// A user who tries once in a while is reported each time: another count begins
// after one was ended, and in each set of programs.
func TestReaderReportsDeniedCallsOfANewCount(t *testing.T) {
	r := newReading(t)
	kind := deniedKind(t, 1)
	denied := record(bpf.SystemCall, func(r *bpf.Record) {
		r.Call = &bpf.Call{Name: bpf.InitModule, Result: -1, HasArguments: true, Size: 9, Denied: &kind}
	})
	var keys []string
	try := func(set uint64) {
		t.Helper()
		r.events, r.keys = nil, nil
		position := bpf.Position{Set: set, Offset: 1}
		r.counts.calls[kind.In(position)]++
		require.NoError(t, r.reader.take(denied, position, 10, start))
		require.NoError(t, r.expire(r.denials.due))
		require.Len(t, r.events, 1)
		require.EqualValues(t, 1, *r.events[0].Count)
		require.NotEmpty(t, r.events[0].ProcessName)
		key := r.keys[0]
		require.NotContains(t, keys, key)
		keys = append(keys, key)
		r.denials.ack(key)
		r.attempts.acks.acked(key)
	}
	try(1)
	for len(r.denials.kinds) > 0 {
		require.NoError(t, r.expire(r.denials.due))
	}
	try(1)
	require.Empty(t, r.attempts.acks.stored, "any user could fill it")

	// The host was booted: the keys are in the store, and the counts are gone.
	again := newReading(t)
	again.attempts.acks.start(keys)
	require.Empty(t, again.attempts.acks.stored)
	again.denials.begin(again.counts, keys, start)
	r = again
	try(2)
}

func TestReaderReturnsErrors(t *testing.T) {
	r := newReading(t)
	r.take(readRecord)
	r.counts.fails = "DeniedCounts"
	require.ErrorIs(t, r.expire(r.denials.due), errCounts)
	require.ErrorIs(t, r.finish(time.Now()), errCounts)
	require.Equal(t, []string{"security_kernel_read_file"}, r.names(), "what it held is written all the same")
}

func TestReaderDeadlineIsTheFirstDueTime(t *testing.T) {
	r := newReading(t)
	r.denials.due = start.Add(time.Hour)
	require.Equal(t, start.Add(time.Hour), r.deadline())
	r.take(readRecord)
	require.Equal(t, start.Add(loadPatience), r.deadline())
	r.denials.due = start.Add(time.Second)
	require.Equal(t, start.Add(time.Second), r.deadline())
}

// While the reader is behind, the return that an attempt waits for may be in the ring
// buffer. An init_module without a result would then be emitted besides the return.
func TestStagesDoNotEndWhileTheReaderIsBehind(t *testing.T) {
	r := newReading(t)
	behind := host.SinceBoot() - time.Hour
	read := func(at, now time.Duration, kind bpf.Kind, attempt time.Duration, change func(*bpf.Record)) {
		next := record(kind, change)
		next.Boot, next.Attempt = behind+at, attempt
		r.position += 10
		require.NoError(t, r.reader.take(next, bpf.Position{Set: 7, Offset: r.position}, 10, start.Add(now)))
	}
	load := func(at, now time.Duration, attempt time.Duration) {
		read(at, now, bpf.LoadData, attempt, func(r *bpf.Record) { r.File = &bpf.File{ID: 2, IsModule: true} })
		read(at, now, bpf.ModuleLoad, attempt, func(r *bpf.Record) { r.Module = &bpf.Module{Name: "x"} })
	}
	load(0, 0, 1)
	load(1, initPatience, 2)
	require.Equal(t, []string{"security_kernel_load_data", "module_load", "security_kernel_load_data", "module_load"}, r.names())
	read(2, 2*initPatience, bpf.SystemCall, 1, func(r *bpf.Record) { r.Call = &bpf.Call{Name: bpf.InitModule, HasArguments: true} })
	require.Equal(t, "init_module", r.names()[4])
	require.NotNil(t, r.events[4].Result)
	require.Len(t, r.events, 5)

	// It has come to the end of what was there.
	require.NoError(t, r.expire(start.Add(2*initPatience)))
	require.Len(t, r.events, 6)
	require.Equal(t, "init_module", r.names()[5])
	require.Nil(t, r.events[5].Result)
}

// Other goroutines than the reader's read the images.
func TestImagesAreReadConcurrently(t *testing.T) {
	r := newReading(t)
	var finding sync.WaitGroup
	for i := range 100 {
		attempt := time.Duration(i + 1)
		taken, read := taken, readRecord
		taken.Attempt, read.Attempt = attempt, attempt
		r.take(read, taken)
		job := r.wanted[i]
		finding.Go(func() { r.found(job, found) })
		require.NoError(t, r.expire(start))
	}
	finding.Wait()
	require.NoError(t, r.expire(start))
	require.False(t, r.attempts.isWaitingForImages())
	require.NoError(t, r.finish(time.Now()))
	require.Len(t, r.events, 100)
	for _, e := range r.events {
		require.Equal(t, "5a", e.SHA256)
	}
}

// The hooks were attached while calls were under way.
func TestLoadThatBeganBeforeTheHooksIsReportedOnce(t *testing.T) {
	unbegun := func(kind bpf.Kind, change func(*bpf.Record)) bpf.Record {
		r := record(kind, change)
		r.Attempt, r.Tid = 0, 77
		return r
	}
	live := unbegun(bpf.ModuleLoad, func(r *bpf.Record) { r.Module = &bpf.Module{Name: "dummy"} })
	failed := func(call string, result int64) bpf.Record {
		return unbegun(bpf.SystemCall, func(r *bpf.Record) { r.Call = &bpf.Call{Name: call, Result: result} })
	}
	returned := func(call string) bpf.Record { return failed(call, 0) }
	stranger, begun := returned(bpf.InitModule), record(bpf.ReadFile, func(r *bpf.Record) { r.File, r.Tid = &bpf.File{}, 77 })
	stranger.Comm = "stranger"
	for _, test := range []struct {
		name    string
		records []bpf.Record
		reports []bool
		loads   int
	}{
		{"it was seen to go live", []bpf.Record{live, returned(bpf.FinitModule)}, []bool{true, false}, 1},
		{"a load from memory was", []bpf.Record{live, returned(bpf.InitModule)}, []bool{true, false}, 1},
		{"only its return was seen", []bpf.Record{returned(bpf.InitModule)}, []bool{true}, 1},
		{"only the return of a load from a file was", []bpf.Record{returned(bpf.FinitModule)}, []bool{false}, 1},
		{"a load from memory failed", []bpf.Record{failed(bpf.InitModule, -8)}, []bool{true}, 1},
		{"a load from a file was refused", []bpf.Record{failed(bpf.FinitModule, -22)}, []bool{false}, 1},
		{"its init failed", []bpf.Record{live, failed(bpf.FinitModule, -22)}, []bool{true, false}, 1},
		{"one thread loads twice", []bpf.Record{live, returned(bpf.FinitModule), live}, []bool{true, false, true}, 2},
		{"its return was lost", []bpf.Record{live, live}, []bool{true, true}, 2},
		{"its return was lost, and another thread got its number", []bpf.Record{live, stranger}, []bool{true, true}, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newReading(t)
			for i, record := range test.records {
				record.Boot += time.Duration(i)
				r.take(record)
			}
			var reports []bool
			loads := map[string]bool{}
			for i := range r.events {
				reports = append(reports, r.events[i].IsLoadReport())
				loads[r.events[i].LoadID] = true
				require.NotEmpty(t, r.events[i].LoadID)
				require.False(t, r.events[i].Missing.Has("load_id"))
				require.True(t, r.events[i].Missing.Has("sha256"))
				require.False(t, r.events[i].Missing.Has("parent_load_id"))
			}
			require.Equal(t, test.reports, reports)
			require.Len(t, loads, test.loads)
		})
	}
	r := newReading(t)
	r.take(live, begun)
	require.Empty(t, r.unbegun, "another call of the thread began, so the first one is over")
	for i := range 10 * maxUnbegun {
		live.Tid = uint32(i)
		r.take(live)
	}
	require.LessOrEqual(t, len(r.unbegun), maxUnbegun)
}

// A load sees its hooks attached one after another, in the order of bpf's hooks, each before
// one of its steps. What the hooks then record is whole, or named in missing, and is one
// load.
func TestLoadsDuringTheAttachmentAreWholeOrNamed(t *testing.T) {
	const entry, read, image, params, live, end = 0, 1, 2, 3, 4, 5 // steps of a load
	order := []int{entry, end, image, read, live, params}          // of attachment, as TestOrderOfAttachment of bpf requires
	// attached has the step before which the hook of each step is attached.
	var visit func(attached []int, from int, check func([]int))
	visit = func(attached []int, from int, check func([]int)) {
		if len(attached) == len(order) {
			check(attached)
			return
		}
		for at := from; at <= end+1; at++ {
			visit(append(attached[:len(attached):len(attached)], at), at, check)
		}
	}
	loads := 0
	for _, call := range []string{bpf.FinitModule, bpf.InitModule} {
		for _, result := range []int64{0, -22, -8} {
			visit(nil, 0, func(attached []int) {
				loads++
				sees := map[int]bool{}
				for i, step := range order {
					sees[step] = attached[i] <= step
				}
				r := newReading(t)
				if slices.Max(attached) > 0 {
					r.complete, r.attached = insmod.Boot, insmod.Boot
				}
				r.take(processRecords...)
				begin, isTaken := time.Duration(0), false
				take := func(change bpf.Record) {
					change.Attempt = begin
					r.take(change)
				}
				if sees[entry] {
					begin = insmod.Attempt
				}
				if sees[read] {
					begin, isTaken = insmod.Attempt, true
					source := readRecord
					if call == bpf.InitModule {
						source = loadDataRecord
					}
					source.File = new(*source.File)
					source.File.HasArguments = sees[entry]
					take(source)
				}
				if sees[image] && isTaken {
					take(taken)
					r.found(r.wanted[0], found)
				}
				if sees[params] && isTaken {
					take(parsed)
				}
				if sees[live] && result == 0 {
					take(liveRecord)
				}
				if sees[end] {
					returned := returns
					returned.Call = &bpf.Call{Name: call, Result: result, Taken: isTaken, HasArguments: sees[entry]}
					take(returned)
				}
				require.NoError(t, r.finish(time.Now()))

				reports, ids := 0, map[string]bool{}
				for i := range r.events {
					e := &r.events[i]
					ids[e.LoadID] = true
					if e.IsLoadReport() {
						reports++
					}
					columns := []string{"name", "sha256", "origin", "signer"}
					if call == bpf.FinitModule {
						columns = append(columns, "path", "filesystem", "inode", "size")
					}
					if result == 0 && sees[end] {
						columns = append(columns, "taints")
					}
					for _, column := range columns {
						require.True(t, !e.Lacks(column) || e.Missing.Has(column), "%s %d attached before %v: %s lacks %s", call, result, attached, e.EventName, column)
					}
					require.True(t, e.Result != nil || e.Missing.Has("result") || !slices.Contains([]string{"init_module", "finit_module"}, e.EventName))
				}
				require.LessOrEqual(t, len(ids), 1, "%s %d attached before %v", call, result, attached)
				isReport := sees[read] || sees[live] && result == 0 || sees[end] && call == bpf.InitModule
				require.Equal(t, isReport, reports == 1, "%s %d attached before %v: %d reports", call, result, attached, reports)
				if slices.Max(attached) == 0 {
					for _, e := range r.events {
						require.Empty(t, e.Missing, e.EventName)
					}
				}
			})
		}
	}
	require.Equal(t, 6*924, loads)
}

// A module was requested before the hooks would have seen that.
func TestRequestedByIsMissingIfTheRequestMayHaveBeenEarlier(t *testing.T) {
	kthreadd := pathRecord(bpf.Path{Role: bpf.Executable, Generation: 1, Pid: 2, Comm: "kthreadd", Last: true, KernelThread: true})
	modprobe := pathRecord(bpf.Path{Role: bpf.Executable, Pid: 10, Value: "/usr/bin/kmod"})
	for _, test := range []struct {
		attached time.Duration
		want     bool
	}{{insmod.Boot, true}, {0, false}} {
		r := newReading(t)
		r.attached = test.attached
		r.take(modprobe, kthreadd, readRecord, liveRecord, returns)
		require.Len(t, r.events, 3)
		for _, e := range r.events {
			require.Equal(t, test.want, e.Missing.Has("requested_by"))
		}
	}

	// The beginning of its call was not seen either.
	r := newReading(t)
	unbegun := returns
	unbegun.Attempt = 0
	r.take(modprobe, kthreadd, unbegun)
	require.Len(t, r.events, 1)
	require.True(t, r.events[0].Missing.Has("requested_by"))
}

// BenchmarkReaderTakesALoad takes the records of a load that a request caused.
func BenchmarkReaderTakesALoad(b *testing.B) {
	counts := newFakeCounts()
	d := newDenials()
	d.begin(counts, nil, time.Now().Add(time.Hour))
	acks := newAckTracker()
	attempts := newAttempts(acks, &fakeRelease{}, func(d kmodquery.Delivery) { acks.acked(d.Key) })
	r := newReader(translate, d, attempts, func(imageJob) {})
	load := append(processRecords[:len(processRecords):len(processRecords)], readRecord, parsed, liveRecord, returns)
	position, begin := uint64(0), time.Duration(0)
	b.ReportAllocs()
	for b.Loop() {
		begin++
		for _, record := range load {
			record.Context, record.Request, record.RequestTid = begin, 500, 9
			if record.Attempt != 0 {
				record.Attempt = begin
			}
			position += 10
			if err := r.take(record, at(position), 10, start); err != nil {
				b.Fatal(err)
			}
		}
	}
}

//go:build linux

package klog

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/linux/klog/printk"
)

// A correlatorTest adds lines to a correlator. Its clock stands still unless the test sets it.
type correlatorTest struct {
	*correlator
	t      *testing.T
	now    time.Time
	number int
	events []kmodquery.Event
	// positions are those of the events.
	positions []string
}

func newCorrelatorTest(t *testing.T) *correlatorTest {
	l := &correlatorTest{t: t, now: time.Unix(1000, 0)}
	l.correlator = &correlator{
		source:    kmodquery.SourceKmsg,
		isBuiltin: func(name string) bool { return name == "loop" },
		emit: func(d kmodquery.Delivery) {
			l.events, l.positions = append(l.events, d.Event), append(l.positions, d.Position)
		},
	}
	return l
}

// logs adds a line at milliseconds of the log's clock.
func (l *correlatorTest) logs(ms int64, text string, change ...func(*line)) {
	l.t.Helper()
	statement, ok := printk.Kernel(text)
	if !ok {
		statement, ok = printk.Loader(text)
	}
	require.True(l.t, ok, text)
	l.number++
	line := line{
		statement: statement, raw: fmt.Sprintf("raw %s", text), text: text,
		at: time.Duration(ms) * time.Millisecond, time: time.Unix(1000, ms*1e6),
		uptime: new(ms / 1000), bootID: "boot", id: fmt.Sprint(l.number),
	}
	for _, f := range change {
		f(&line)
	}
	l.add(line, l.now)
	l.position = fmt.Sprintf("position %d", l.number)
}

func by(tid int64) func(*line) { return func(l *line) { l.tid = &tid } }

func byLoader(l *line) {
	l.loader = &loader{pid: new(int64(7)), uid: new(int64(0)), name: "modprobe", path: "/usr/bin/kmod"}
}

// takeEvents returns the events since the last call, in short.
func (l *correlatorTest) takeEvents() []string {
	var all []string
	for _, e := range l.events {
		all = append(all, strings.TrimSpace(fmt.Sprintf("%s %s %s", e.EventName, e.Name, e.Error)))
	}
	l.events = nil
	return all
}

func TestLinesOfOneAttemptAreOneEvent(t *testing.T) {
	l := newCorrelatorTest(t)
	l.logs(1000, "evil: bad vermagic: kernel tainted.", by(42))
	l.logs(1001, "evil: loading out-of-tree module taints kernel.", by(42))
	l.logs(1002, "evil: module license 'Proprietary' taints kernel.", by(42))
	l.logs(1003, "evil: module verification failed: signature and/or required key missing - tainting kernel", by(42))
	require.Empty(t, l.events)
	l.expire(l.now.Add(quietPeriod))
	require.Len(t, l.events, 1)
	require.Equal(t, kmodquery.Event{
		Time: 1001, TimeNanos: 1001e9, Uptime: new(int64(1)), BootID: "boot", EventName: kmodquery.EventModuleLoad,
		Source: kmodquery.SourceKmsg, LoadID: l.events[0].LoadID, Name: "evil", Type: kmodquery.TypeKernelModule,
		SignatureStatus: kmodquery.SignatureUnknown, License: "Proprietary", Intree: new(int64(0)),
		Taints: new(int64(1<<0 | 1<<1 | 1<<12 | 1<<13)), Tid: new(int64(42)), Count: new(int64(1)),
		Missing: "path,origin,size,sha256,signer,params,requested_by,pid,parent,process_name,process_path,cmdline,uid,gid,auid,ancestors,cgroup,container_id",
		Raw: strings.Join([]string{
			"raw evil: bad vermagic: kernel tainted.", "raw evil: loading out-of-tree module taints kernel.",
			"raw evil: module license 'Proprietary' taints kernel.",
			"raw evil: module verification failed: signature and/or required key missing - tainting kernel",
		}, "\n"),
	}, l.events[0])
	require.Equal(t, []string{"position 4"}, l.positions)
	require.Regexp(t, "^[0-9a-f]{16}$", l.events[0].LoadID)
	require.True(t, l.next().IsZero())
}

// The kernel's log does not say who unloaded a module: that no container did is not known.
func TestLogLacksTheProcess(t *testing.T) {
	l := newCorrelatorTest(t)
	l.logs(1000, "evil: module unloaded", by(42))
	l.expire(l.now.Add(quietPeriod))
	require.Len(t, l.events, 1)
	require.Equal(t, kmodquery.EventModuleFree, l.events[0].EventName)
	require.Equal(t, "pid,parent,process_name,process_path,cmdline,uid,gid,auid,ancestors,cgroup,container_id", l.events[0].Missing.String())
}

func TestLinesAreGroupedByAttempt(t *testing.T) {
	const (
		outside   = "evil: loading out-of-tree module taints kernel."
		unsigned  = "evil: module verification failed: signature and/or required key missing - tainting kernel"
		symbolA   = "evil: Unknown symbol a (err -2)"
		symbolB   = "evil: Unknown symbol b (err -22)"
		version   = "evil: disagrees about version of symbol c"
		magic     = "evil: version magic 'a' should be 'b'"
		rejected  = "Loading of unsigned module is rejected"
		inserted  = "Inserted module 'evil'"
		refused   = "Failed to insert module 'evil': Key was rejected by service"
		loaded    = "evil: module loaded"
		unloaded  = "evil: module unloaded"
		parameter = "evil: `x' invalid for parameter `y'"
	)
	type logged struct {
		ms   int64
		text string
		by   func(*line)
	}
	byKernel := func(*line) {}
	for _, test := range []struct {
		name  string
		lines []logged
		want  []string
	}{
		{"nothing", nil, nil},
		{"the last symbol's error is the attempt's", []logged{{0, outside, byKernel}, {1, symbolA, byKernel}, {2, symbolB, byKernel}}, []string{"module_load evil EINVAL"}},
		{"a symbol's version, then its error", []logged{{0, version, byKernel}, {1, "evil: Unknown symbol c (err -22)", byKernel}}, []string{"module_load evil EINVAL"}},
		{"an error that is not logged", []logged{{0, outside, byKernel}, {1, parameter, byKernel}}, []string{"module_load evil"}},
		{"the same again", []logged{{0, symbolA, byKernel}, {1, symbolA, byKernel}}, []string{"module_load evil ENOENT", "module_load evil ENOENT"}},
		{"an earlier stage", []logged{{0, symbolA, byKernel}, {1, outside, byKernel}}, []string{"module_load evil ENOENT", "module_load evil"}},
		{"after the end", []logged{{0, magic, byKernel}, {1, outside, byKernel}}, []string{"module_load evil ENOEXEC", "module_load evil"}},
		{"refused twice", []logged{{0, rejected, byKernel}, {1, rejected, byKernel}}, []string{"module_load  EKEYREJECTED", "module_load  EKEYREJECTED"}},
		{"another module between", []logged{{0, outside, byKernel}, {1, "good: module loaded", byKernel}, {2, unsigned, byKernel}}, []string{"module_load evil", "module_load good"}},
		{"two threads", []logged{{0, symbolA, by(1)}, {1, symbolB, by(2)}}, []string{"module_load evil ENOENT", "module_load evil EINVAL"}},
		{"long after", []logged{{0, symbolA, byKernel}, {1001, symbolB, byKernel}}, []string{"module_load evil ENOENT", "module_load evil EINVAL"}},
		{"long after, of the same thread", []logged{{0, "evil: gave up waiting for init of module x.", by(1)}, {30000, symbolB, by(1)}}, []string{"module_load evil", "sys_exit_init_module evil EINVAL"}},
		{"unloaded in between", []logged{{0, loaded, byKernel}, {1, unloaded, byKernel}, {2, parameter, byKernel}}, []string{"module_load evil", "module_free evil", "module_load evil"}},
		{"the loader's result", []logged{{0, outside, byKernel}, {2, inserted, byLoader}}, []string{"module_load evil"}},
		{"the loader's line is first", []logged{{2, inserted, byLoader}, {0, outside, byKernel}, {1, unsigned, byKernel}}, []string{"module_load evil"}},
		{"the loader's name", []logged{{0, rejected, byKernel}, {2, refused, byLoader}}, []string{"module_load evil EKEYREJECTED"}},
		{"another error than the loader's", []logged{{0, "Invalid ELF header len 3", byKernel}, {2, refused, byLoader}}, []string{"module_load  ENOEXEC", "module_load evil EKEYREJECTED"}},
		{"the loader alone, twice", []logged{{0, inserted, byLoader}, {1, inserted, byLoader}}, []string{"module_load evil", "module_load evil"}},
		{"the loader logs before", []logged{{0, "Loading kernel module evil", byLoader}, {1, outside, byKernel}, {2, inserted, byLoader}}, []string{"module_load evil"}},
		{"built in", []logged{{0, "loop: module loaded", byKernel}}, nil},
		{"a request", []logged{{0, "request_module: runaway loop modprobe binfmt-464c", byKernel}}, []string{"module_request binfmt-464c"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := newCorrelatorTest(t)
			for _, s := range test.lines {
				l.logs(s.ms, s.text, s.by)
			}
			l.flush()
			for i := range l.events {
				require.Equal(t, i == len(l.events)-1, l.positions[i] == fmt.Sprintf("position %d", len(test.lines)), "only the last has the position")
			}
			require.Equal(t, test.want, l.takeEvents())
		})
	}
}

func TestNoteIsAddedToTheNextAttempt(t *testing.T) {
	const remark, unsigned = "PKCS#7 signature not signed with a trusted key", "evil: module verification failed: signature and/or required key missing - tainting kernel"
	l := newCorrelatorTest(t)
	l.logs(0, remark)
	l.logs(1, unsigned)
	l.logs(2, "other: module loaded")
	l.logs(3, remark)
	l.logs(200, "late: module verification failed: signature and/or required key missing - tainting kernel")
	l.logs(201, remark) // of firmware
	l.flush()
	require.Len(t, l.events, 3)
	require.Equal(t, kmodquery.SignatureUntrusted, l.events[0].SignatureStatus)
	require.Equal(t, "raw "+remark+"\nraw "+unsigned, l.events[0].Raw)
	require.Empty(t, l.events[1].SignatureStatus)
	require.Equal(t, kmodquery.SignatureUnknown, l.events[2].SignatureStatus)
}

func TestLineAfterASyncBecomesAReturnEvent(t *testing.T) {
	l := newCorrelatorTest(t)
	l.logs(0, "evil: loading out-of-tree module taints kernel.")
	require.Equal(t, l.now.Add(syncGrace), l.quiet())
	l.flush()
	id := l.events[0].LoadID
	l.logs(5, "evil: Unknown symbol a (err -2)")
	l.logs(6, "evil: Unknown symbol b (err -22)")
	l.flush()
	require.Equal(t, id, l.events[1].LoadID)
	require.Equal(t, []string{"module_load evil", "sys_exit_init_module evil EINVAL"}, l.takeEvents())
}

func TestBackfillEmitsNothingOlder(t *testing.T) {
	l := newCorrelatorTest(t)
	l.since = time.Unix(1000, 500e6)
	l.logs(499, "old: module loaded")
	l.logs(500, "new: module loaded")
	l.flush()
	require.Equal(t, []string{"module_load new"}, l.takeEvents())
	l.logs(100, "old: module unloaded")
	l.flush()
	require.Empty(t, l.takeEvents())
}

func TestBackfillEmitsNothingNewer(t *testing.T) {
	l := newCorrelatorTest(t)
	l.until = time.Unix(1000, 500e6)
	l.logs(500, "old: module loaded")
	l.logs(501, "new: module loaded")
	l.flush()
	require.Equal(t, []string{"module_load old"}, l.takeEvents())
}

// The log has more lines than the correlator keeps.
func TestCorrelatorIsBounded(t *testing.T) {
	l := newCorrelatorTest(t)
	const lines = 5000
	for i := range int64(lines) {
		l.logs(i/10, fmt.Sprintf("evil: Unknown symbol %s%d (err -2)", strings.Repeat("s", 300), i))
		require.LessOrEqual(t, len(l.held), maxHeld)
	}
	l.flush()
	require.Len(t, l.events, 1, "an attempt may have any number of lines")
	require.LessOrEqual(t, len(l.events[0].Raw), maxRaw)
	require.Contains(t, l.events[0].Missing, "raw")
	l.takeEvents()
	for i := range int64(lines) {
		l.logs(1000+i/10, fmt.Sprintf("evil%d: module loaded", i))
		require.LessOrEqual(t, len(l.held), maxHeld)
	}
	l.flush()
	require.Len(t, l.events, lines)
	require.LessOrEqual(t, len(l.emitted), maxEmitted)
}

func TestLoadIDsAreStableAcrossRestarts(t *testing.T) {
	ids := func() []string {
		l := newCorrelatorTest(t)
		l.logs(0, "a: module loaded")
		l.logs(1, "b: module loaded")
		l.flush()
		return []string{l.events[0].LoadID, l.events[1].LoadID}
	}
	first := ids()
	require.NotEqual(t, first[0], first[1])
	require.Equal(t, first, ids())
}

func TestParametersAreBounded(t *testing.T) {
	l := newCorrelatorTest(t)
	for n := range 5000 {
		l.logs(1000, fmt.Sprintf("nbd: unknown parameter 'parameter_%d' ignored", n), by(42))
	}
	l.flush()
	require.Len(t, l.events, 1)
	require.LessOrEqual(t, len(*l.events[0].Params), maxRaw)
	require.Contains(t, l.events[0].Missing, "params")
}

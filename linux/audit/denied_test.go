//go:build linux

package audit

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

// deniedEvent returns a denied call as the audit source sees it.
func deniedEvent(call, path string, uid int64) kmodquery.Event {
	return kmodquery.Event{
		EventName: call, Source: "audit", ProcessPath: path, UID: &uid, Pid: new(uid + 1), Cmdline: path,
		Result: new(int64(-1)), Error: "EPERM", Count: new(int64(1)), LoadID: "1",
	}
}

func TestDeniedCallsAreFolded(t *testing.T) {
	var d denials
	now := time.Unix(1000, 0)
	for i := range 9 {
		d.add(deniedEvent("init_module", "/bin/a", 1000), eventRef{start: int64(i)}, now.Add(time.Duration(i)*time.Second))
	}
	d.add(deniedEvent("init_module", "/bin/a", 1001), eventRef{start: 10}, now)
	d.add(deniedEvent("finit_module", "/bin/a", 1000), eventRef{start: 11}, now)
	d.add(deniedEvent("init_module", "/bin/b", 1000), eventRef{start: 12}, now)
	require.Equal(t, eventRef{start: 12}, d.last)
	require.Equal(t, now.Add(time.Minute), d.due)

	var rows []string
	d.report("here", func(d kmodquery.Delivery) {
		e := &d.Event
		rows = append(rows, fmt.Sprintf("%s %s %d %d %q", e.EventName, e.ProcessPath, *e.UID, *e.Count, d.Position))
	})
	require.Equal(t, []string{
		`init_module /bin/a 1000 9 ""`, `init_module /bin/a 1001 1 ""`, `finit_module /bin/a 1000 1 ""`, `init_module /bin/b 1000 1 "here"`,
	}, rows)
	require.Zero(t, d.due)
	d.report("here", func(kmodquery.Delivery) { t.Error("reported twice") })
}

func TestDeniedKindsAreBounded(t *testing.T) {
	var d denials
	const users = 5000
	for uid := range int64(users) {
		d.add(deniedEvent("init_module", "/bin/a", uid), eventRef{}, time.Unix(0, 0))
		d.add(deniedEvent("delete_module", "/bin/a", uid), eventRef{}, time.Unix(0, 0))
	}
	require.LessOrEqual(t, len(d.rows), maxDeniedKinds+2)
	counts := map[string]int64{}
	d.report("", func(d kmodquery.Delivery) {
		e := &d.Event
		counts[e.EventName] += *e.Count
		require.True(t, e.IsUnprivileged())
		if *e.Count > 1 {
			require.Nil(t, e.UID, "an event that counts several users has none")
			require.Equal(t, "pid,uid,process_path,cmdline,container_id", e.Missing.String())
		}
	})
	require.Equal(t, map[string]int64{"init_module": users, "delete_module": users}, counts)
}

func TestDeniedCallWithoutAUserHasNoUID(t *testing.T) {
	var d denials
	e := deniedEvent("init_module", "", 0)
	e.UID = nil
	d.add(e, eventRef{}, time.Unix(0, 0))
	d.report("", func(d kmodquery.Delivery) { require.Nil(t, d.Event.UID) })
}

package record

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/elastic/go-libaudit/v2/auparse"
	"github.com/stretchr/testify/require"
)

var began = time.Unix(1795529435, 0)

// message returns a record of the insmod with another serial number.
func message(t testing.TB, kind auparse.AuditMessageType, text string, serial int) Record {
	t.Helper()
	r, err := ParseMessage(kind, strings.Replace(text, ":2):", fmt.Sprintf(":%d):", serial), 1))
	require.NoError(t, err)
	return r
}

func types(e Event) []auparse.AuditMessageType {
	var all []auparse.AuditMessageType
	for _, r := range e.Records {
		all = append(all, r.Type)
	}
	return all
}

// gather returns an assembler and the events that it has emitted.
func gather() (*Assembler, *[]Event) {
	var events []Event
	return NewAssembler(func(e Event) { events = append(events, e) }), &events
}

func TestRecordsOfOneEventAreJoined(t *testing.T) {
	for name, kinds := range map[string][]auparse.AuditMessageType{
		"as the kernel sends it": {auparse.AUDIT_SYSCALL, auparse.AUDIT_KERN_MODULE, auparse.AUDIT_PROCTITLE, auparse.AUDIT_EOE},
		"as the daemon logs it":  {auparse.AUDIT_SYSCALL, auparse.AUDIT_KERN_MODULE, auparse.AUDIT_PROCTITLE},
	} {
		t.Run(name, func(t *testing.T) {
			a, events := gather()
			texts := map[auparse.AuditMessageType]string{
				auparse.AUDIT_SYSCALL: insmodSyscall, auparse.AUDIT_KERN_MODULE: insmodModule,
				auparse.AUDIT_PROCTITLE: insmodProctitle, auparse.AUDIT_EOE: insmodEnd,
			}
			for i, kind := range kinds {
				a.Add(message(t, kind, texts[kind], 2), int64(i+1), began)
			}
			require.Len(t, *events, 1)
			e := (*events)[0]
			require.Equal(t, "finit_module", e.Call)
			require.True(t, e.isComplete)
			require.EqualValues(t, 1, e.Start)
			require.Equal(t, kinds[:3], types(e))
			require.Zero(t, a.Due())
		})
	}
}

func TestOtherEventsAreIgnored(t *testing.T) {
	a, events := gather()
	execve := strings.Replace(insmodSyscall, "syscall=313", "syscall=59", 1)
	a.Add(message(t, auparse.AUDIT_SYSCALL, execve, 3), 0, began)
	a.Add(message(t, auparse.AUDIT_EOE, insmodEnd, 3), 0, began)
	a.Add(message(t, auparse.AUDIT_KERN_MODULE, insmodModule, 4), 0, began) // the end of an event that was emitted
	a.Add(message(t, auparse.AUDIT_PROCTITLE, insmodProctitle, 4), 0, began)
	require.Zero(t, a.Due())
	require.Empty(t, *events)
}

func TestEventsAreEmittedInTheirOrder(t *testing.T) {
	a, events := gather()
	for serial := 1; serial <= 3; serial++ {
		a.Add(message(t, auparse.AUDIT_SYSCALL, insmodSyscall, serial), int64(serial), began)
	}
	for _, serial := range []int{3, 2} {
		a.Add(message(t, auparse.AUDIT_PROCTITLE, insmodProctitle, serial), 0, began)
	}
	require.Empty(t, *events)
	require.Equal(t, began.Add(patience), a.Due())
	a.Expire(began.Add(patience - 1))
	require.Empty(t, *events)
	a.Expire(began.Add(patience))
	require.Len(t, *events, 3)
	for i, e := range *events {
		require.EqualValues(t, i+1, e.ID.Serial)
		require.Equal(t, i > 0, e.isComplete)
	}
}

func TestEventsAreBounded(t *testing.T) {
	a, events := gather()
	for serial := range 3 * maxOpen {
		a.Add(message(t, auparse.AUDIT_SYSCALL, insmodSyscall, serial), 0, began)
		// A second record with the same id belongs to the same event.
		a.Add(message(t, auparse.AUDIT_SYSCALL, insmodSyscall, serial), 0, began)
	}
	require.Len(t, *events, 2*maxOpen)
	require.Len(t, a.open, maxOpen)
	for range 1000 {
		a.Add(message(t, auparse.AUDIT_PATH, `audit(1795529435.180:2): item=0 name="/sys/kernel/debug/x" nametype=CREATE`, 3*maxOpen-1), 0, began)
	}
	a.Flush()
	require.Len(t, *events, 3*maxOpen)
	require.Len(t, (*events)[3*maxOpen-1].Records, 1+maxRepeated)
	_, ok := (*events)[0].First(auparse.AUDIT_PATH)
	require.False(t, ok)
	r, ok := (*events)[3*maxOpen-1].First(auparse.AUDIT_PATH)
	require.True(t, ok)
	require.Equal(t, "CREATE", r.Fields.Word("nametype"))
}

func FuzzAssembler(f *testing.F) {
	log := "type=SYSCALL msg=" + insmodSyscall + "\ntype=KERN_MODULE msg=" + insmodModule + "\n"
	f.Add(log + "type=PROCTITLE msg=" + insmodProctitle)
	f.Add(log + "type=EOE msg=" + insmodEnd)
	f.Add(log + strings.ReplaceAll(log, ":2):", ":3):") + "type=PROCTITLE msg=" + insmodProctitle)
	f.Fuzz(func(t *testing.T, log string) {
		ids := map[ID]bool{}
		a := NewAssembler(func(e Event) {
			require.Contains(t, calls, e.Call)
			require.NotEmpty(t, e.Records)
			require.Equal(t, e.Call, e.Records[0].Call())
			for _, r := range e.Records {
				require.Equal(t, e.ID, r.ID)
			}
			ids[e.ID] = true
		})
		calls := map[ID]bool{}
		now := began
		for line := range strings.SplitSeq(log, "\n") {
			r, err := ParseLine(line)
			if err != nil {
				continue
			}
			if r.Call() != "" {
				calls[r.ID] = true
			}
			now = now.Add(time.Millisecond)
			a.Add(r, 0, now)
			a.Expire(now)
			require.LessOrEqual(t, len(a.open), maxOpen)
			require.Equal(t, len(a.queue), len(a.open))
		}
		a.Flush()
		require.Equal(t, calls, ids, "every call is emitted")
	})
}

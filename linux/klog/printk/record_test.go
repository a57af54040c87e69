package printk

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestParseRecord(t *testing.T) {
	for _, test := range []struct {
		name, record string
		want         Record
		isKernels    bool
	}{
		{"the kernel's", "4,357,2080796,-;dummy: module loaded\n", Record{
			Priority: 4, Sequence: 357, Time: 2080796 * time.Microsecond, Text: "dummy: module loaded", Raw: "4,357,2080796,-;dummy: module loaded",
		}, true},
		{"with a device", "6,339,5140900,c;NET: Registered\n SUBSYSTEM=acpi\n DEVICE=+acpi:PNP0A03:00\n", Record{
			Priority: 6, Sequence: 339, Time: 5140900 * time.Microsecond, Text: "NET: Registered", Raw: "6,339,5140900,c;NET: Registered",
		}, true},
		{"with its caller", "4,1,2,-,caller=T123;x: module loaded\n", Record{
			Priority: 4, Sequence: 1, Time: 2 * time.Microsecond, Caller: "T123", Text: "x: module loaded", Raw: "4,1,2,-,caller=T123;x: module loaded",
		}, true},
		{"of user space", "12,3,4,-;kernel: x: module loaded\n", Record{
			Priority: 12, Sequence: 3, Time: 4 * time.Microsecond, Text: "kernel: x: module loaded", Raw: "12,3,4,-;kernel: x: module loaded",
		}, false},
		{"with escapes", `3,378,1,-;Invalid ELF header magic: != \x7fELF\x5cx41\x0a\x4` + "\n", Record{
			Priority: 3, Sequence: 378, Time: time.Microsecond, Text: "Invalid ELF header magic: != \x7fELF\\x41\n\\x4",
			Raw: `3,378,1,-;Invalid ELF header magic: != \x7fELF\x5cx41\x0a\x4`,
		}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := ParseRecord([]byte(test.record))
			require.NoError(t, err)
			require.Equal(t, test.want, got)
			require.Equal(t, test.isKernels, got.IsFromKernel())
		})
	}
	for _, record := range []string{"", ";", "4,5;x", "x,1,2,-;y", "4,-1,2,-;y", "4,1,,-;y", "4,1,2,-", "4,1,99999999999999999999,-;y"} {
		_, err := ParseRecord([]byte(record))
		require.ErrorIs(t, err, errRecord, record)
	}
}

func TestThreadOf(t *testing.T) {
	for caller, want := range map[string]int64{"T123": 123, "T0": 0, "C1": 0, "": 0, "T": 0, "T99999999999": 0, "T-1": 0} {
		tid, ok := ThreadOf(caller)
		require.Equal(t, want != 0, ok, caller)
		if ok {
			require.Equal(t, want, tid)
		}
	}
}

func FuzzParseRecord(f *testing.F) {
	f.Add([]byte("4,357,2080796,-;dummy: module loaded\n"))
	f.Add([]byte("6,339,5140900,c,caller=T1;NET: Registered\n SUBSYSTEM=acpi\n"))
	f.Add([]byte(`3,378,1,-;Invalid ELF header magic: != \x7fELF\x5cx41` + "\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseRecord(b)
		if err != nil {
			require.Empty(t, r)
			return
		}
		require.LessOrEqual(t, len(r.Text), len(b))
		require.GreaterOrEqual(t, r.Time, time.Duration(0))
		require.GreaterOrEqual(t, r.Priority, 0)
		require.NotContains(t, r.Raw, "\n")
	})
}

package kmodquery

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAClosedLoadMarksWhatIsNotWhole(t *testing.T) {
	events := []Event{
		{
			EventName: EventModuleLoad, Source: SourceEBPF, TimeNanos: 7, Uptime: new(int64(3)), ReportsLoad: new(int64(1)), Name: "a",
			Path: "/cut", SignatureStatus: SignatureUnknown, Missing: "path,cmdline,cwd,signer,signature_status",
		},
		{
			EventName: EventFinitModule, Source: SourceAudit, TimeNanos: 5, Path: "/whole", Cmdline: "insmod cu", Cwd: "/",
			SignatureStatus: SignatureRejected, Missing: "cmdline",
		},
	}
	closed, ok := CloseLoad(events, func(int64) string { return "" })
	require.True(t, ok)
	require.Equal(t, "/cut insmod cu / rejected", closed.Path+" "+closed.Cmdline+" "+closed.Cwd+" "+closed.SignatureStatus)
	for column, isMissing := range map[string]bool{"path": true, "cmdline": true, "signer": true, "cwd": false, "signature_status": false} {
		require.Equal(t, isMissing, closed.Missing.Has(column), column)
	}
	require.Equal(t, int64(5), closed.TimeNanos)
	require.Equal(t, int64(3), *closed.Uptime, "an event without it does not take it away")
}

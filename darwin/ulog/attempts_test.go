package ulog

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/darwin/kextlog"
	"github.com/kmodquery/kmodquery/test/race"
	"github.com/kmodquery/kmodquery/test/standin"
)

// No value of a row belongs to another attempt than the row's record. One that could is left
// out and named in missing.
func TestAttemptsThatOverlapDoNotMix(t *testing.T) {
	lines, attempts := standin.KextAttempts(1, race.Scale(10_000), testTime, testBoot)
	j := newJoiner()
	rows, known := map[string]int{}, map[string]int{}
	for _, text := range lines {
		line, err := kextlog.ParseLine([]byte(text))
		require.NoError(t, err)
		events, unparsed := j.add(&line.Record, text)
		require.Zero(t, unparsed)
		for _, e := range events {
			a := attempts[line.Record.Mach/1000]
			require.Equal(t, a.ID, e.Name)
			for column, own := range map[string]string{"path": a.Path, "version": a.Version, "team_id": a.TeamID, "cdhash": a.CDHash} {
				value := map[string]string{"path": e.Path, "version": e.Version, "team_id": e.TeamID, "cdhash": e.CDHash}[column]
				if value != "" {
					require.Equal(t, own, value, "%s of %s", column, text)
					known[e.EventName+" "+column]++
				}
				isUnsigned := e.SignatureStatus == kmodquery.SignatureUnsigned && (column == "team_id" || column == "cdhash")
				require.Equal(t, value == "" && !isUnsigned, e.Missing.Has(column), "%s of %s", column, text)
			}
			if e.SignatureStatus != "" {
				require.Empty(t, a.TeamID, text)
			}
			rows[e.EventName]++
		}
	}
	t.Log(rows, known)
	// The test has something to compare.
	require.Greater(t, rows[kmodquery.EventKextload], race.Scale(5000))
	require.Greater(t, known["kextload path"], rows[kmodquery.EventKextload]/4)
	require.Less(t, known["kextload path"], rows[kmodquery.EventKextload])
}

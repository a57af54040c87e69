package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery/test/race"
	"github.com/kmodquery/kmodquery/test/standin"
)

// No value of a row belongs to another attempt, through the whole command: the parsers, both
// sources, the collectors and the store.
func TestKextAttemptsThatOverlapDoNotMix(t *testing.T) {
	start := time.Date(2026, 11, 20, 9, 30, 0, 0, time.UTC)
	lines, attempts := standin.KextAttempts(2, race.Scale(10_000), start, bootOfAMac().ID)
	eslogger := installOnMac(t)
	dir, state := filepath.Dir(eslogger), t.TempDir()
	require.NoError(t, installScript(filepath.Join(dir, "log")))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "stream"), nil, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "show"), []byte(strings.Join(lines, "\n")+"\n"), 0o600))
	var play strings.Builder
	for i, a := range attempts[:1000] {
		play.WriteString("print " + standin.EsloggerRecord(a.ID, i) + "\n")
	}
	standin.Direct(t, eslogger, play.String())
	t.Setenv("KMODQUERY_RETENTION_AGE", "0")

	// osqueryd too reads a bounded number of rows at a time.
	var queries strings.Builder
	const step = 1000
	for from := start.Unix(); from < start.Add(4*time.Hour).Unix(); from += step {
		fmt.Fprintf(&queries, "SELECT json_extract(raw, '$.machTimestamp') / 1000 AS attempt, name, path, version, team_id, cdhash, signature_status, missing "+
			"FROM kernel_module_events WHERE source = 'unified_log' AND time >= %d AND time < %d;\n", from, from+step)
	}
	var stdout, stderr strings.Builder
	arguments := []string{"query", "--state-dir", state, "--format", "json"}
	require.Zero(t, run(t.Context(), aMac(dir), arguments, input(t, queries.String()), &stdout, &stderr), stderr.String())
	rows, paths := 0, 0
	var replies [][]struct {
		Attempt                                                         json.Number
		Name, Path, Version, Team_ID, CDHash, Signature_Status, Missing *string //nolint:revive // as the columns
	}
	require.NoError(t, json.Unmarshal([]byte(stdout.String()), &replies))
	for _, reply := range replies {
		for _, row := range reply {
			n, err := row.Attempt.Int64()
			require.NoError(t, err)
			a := attempts[n]
			require.Equal(t, a.ID, *row.Name)
			missing := "," + text(row.Missing) + ","
			for column, value := range map[string][2]string{
				"path": {a.Path, text(row.Path)}, "version": {a.Version, text(row.Version)},
				"team_id": {a.TeamID, text(row.Team_ID)}, "cdhash": {a.CDHash, text(row.CDHash)},
			} {
				isMissing := strings.Contains(missing, ","+column+",")
				if value[1] != "" {
					require.Equal(t, value[0], value[1], "%s of attempt %d", column, n)
				}
				require.False(t, value[1] != "" && isMissing, "%s of attempt %d", column, n)
				require.True(t, value[1] != "" || isMissing || text(row.Signature_Status) == "unsigned", "%s of attempt %d", column, n)
			}
			if text(row.Signature_Status) == "unsigned" {
				require.Empty(t, a.TeamID)
			}
			if rows++; text(row.Path) != "" {
				paths++
			}
		}
	}
	t.Log(rows, paths)
	// Refusals are folded.
	require.Greater(t, rows, race.Scale(5000))
	require.Greater(t, paths, race.Scale(1000))
}

func text(cell *string) string {
	if cell == nil {
		return ""
	}
	return *cell
}

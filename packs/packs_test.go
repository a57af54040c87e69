package packs_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery/test/osqueryhost"
)

const (
	osqueryFile = "kernel-modules.conf"
	guideFile   = "../docs/deploying.md"
)

func readPack(t *testing.T) osqueryhost.Pack {
	t.Helper()
	pack, err := osqueryhost.ReadPack(osqueryFile)
	require.NoError(t, err)
	require.Equal(t, "kernel-modules", pack.Name)
	return pack
}

func removed(q osqueryhost.Query) bool { return q.Removed == nil || bool(*q.Removed) }

// Other tools that read the pack do not support comments.
func TestPackIsPlainJSONWithKnownKeys(t *testing.T) {
	content, err := os.ReadFile(osqueryFile)
	require.NoError(t, err)
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.DisallowUnknownFields()
	var pack osqueryhost.Pack
	require.NoError(t, decoder.Decode(&pack))
	for name, query := range pack.Queries {
		require.NotEmpty(t, query.Description, name)
		require.NotEmpty(t, query.Value, name)
		require.NotNil(t, query.Interval, name)
	}
}

// A shipping query has a cursor of its own, does not ship what any user can cause with
// anything else, and survives osquery's denylist: its reply is bounded.
func TestShippingQueriesHaveACursor(t *testing.T) {
	for name, query := range readPack(t).Queries {
		if removed(query) {
			continue
		}
		unprivileged := 0
		if slices.Contains([]string{"kernel_module_denied", "kernel_module_kext_refusals", "kernel_module_kext_refusal_findings"}, name) {
			unprivileged = 1
		}
		require.Contains(t, query.Query, fmt.Sprintf("WHERE cursor = '%s' AND unprivileged = %d", name, unprivileged), name)
		require.False(t, bool(query.Snapshot), name)
		require.NotNil(t, query.Denylist, name)
		require.False(t, bool(*query.Denylist), name)
		for _, word := range []string{"LIMIT", "JOIN", "FROM TIME", "GROUP BY"} {
			require.NotContains(t, strings.ToUpper(query.Query), word, name)
		}
	}
}

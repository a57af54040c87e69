package packs_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/kmodquery/kmodquery/test/osqueryhost"
)

const (
	osqueryFile = "kernel-modules.conf"
	fleetFile   = "kernel-modules.fleet.yml"
)

// The fields of Fleet's documents, as fleetctl apply reads them.
type (
	fleetDocument struct {
		APIVersion string    `yaml:"apiVersion"`
		Kind       string    `yaml:"kind"`
		Spec       yaml.Node `yaml:"spec"`
	}
	fleetLabel struct {
		Name                string `yaml:"name"`
		Description         string `yaml:"description"`
		Query               string `yaml:"query"`
		LabelMembershipType string `yaml:"label_membership_type"`
	}
	fleetQuery struct {
		Name               string `yaml:"name"`
		Description        string `yaml:"description"`
		Query              string `yaml:"query"`
		Interval           int    `yaml:"interval"`
		Platform           string `yaml:"platform"`
		Logging            string `yaml:"logging"`
		AutomationsEnabled bool   `yaml:"automations_enabled"`
	}
	fleetPack struct {
		Name        string `yaml:"name"`
		Description string `yaml:"description"`
		Disabled    bool   `yaml:"disabled"`
		Targets     struct {
			Labels []string `yaml:"labels"`
		} `yaml:"targets"`
		Queries []fleetPackQuery `yaml:"queries"`
	}
	fleetPackQuery struct {
		Query    string `yaml:"query"`
		Name     string `yaml:"name"`
		Interval int    `yaml:"interval"`
		Platform string `yaml:"platform"`
		Removed  *bool  `yaml:"removed"`
	}
)

type fleet struct {
	labels  []fleetLabel
	queries []fleetQuery
	packs   []fleetPack
}

func readFleet(t *testing.T) (f fleet) {
	t.Helper()
	content, err := os.ReadFile(fleetFile)
	require.NoError(t, err)
	for documents := yaml.NewDecoder(bytes.NewReader(content)); ; {
		var document fleetDocument
		err := documents.Decode(&document)
		if errors.Is(err, io.EOF) {
			return f
		}
		require.NoError(t, err)
		require.Equal(t, "v1", document.APIVersion)
		switch document.Kind {
		case "label":
			f.labels = append(f.labels, spec[fleetLabel](t, document))
		case "query":
			f.queries = append(f.queries, spec[fleetQuery](t, document))
		case "pack":
			f.packs = append(f.packs, spec[fleetPack](t, document))
		default:
			require.Fail(t, "Fleet has no documents of kind "+document.Kind)
		}
	}
}

// spec parses a specification and rejects unknown keys.
func spec[T any](t *testing.T, document fleetDocument) (value T) {
	t.Helper()
	content, err := yaml.Marshal(&document.Spec)
	require.NoError(t, err)
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	decoder.KnownFields(true)
	require.NoError(t, decoder.Decode(&value))
	return value
}

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

func TestFleetHasTheSameQueries(t *testing.T) {
	pack, f := readPack(t), readFleet(t)
	require.Len(t, f.queries, len(pack.Queries))
	require.Len(t, f.packs, 1)
	require.Len(t, f.packs[0].Queries, len(pack.Queries))
	require.Equal(t, pack.Name, f.packs[0].Name)

	logging := map[bool]string{true: "differential", false: "differential_ignore_removals"}
	for i, query := range f.queries {
		want, ok := pack.Queries[query.Name]
		require.True(t, ok, query.Name)
		require.Equal(t, want.Query, query.Query, query.Name)
		require.EqualValues(t, *want.Interval, query.Interval, query.Name)
		require.Equal(t, cmp.Or(want.Platform, pack.Platform), query.Platform, query.Name)
		require.Equal(t, logging[removed(want)], query.Logging, query.Name)
		require.NotEmpty(t, query.Description, query.Name)

		inPack := f.packs[0].Queries[i]
		want2 := removed(want)
		require.Equal(t, fleetPackQuery{query.Name, query.Name, query.Interval, query.Platform, &want2}, inPack)
	}
}

// Fleet schedules both packs and queries with automations. A query that is scheduled by
// both is shipped twice.
func TestFleetSchedulesEachQueryOnce(t *testing.T) {
	f := readFleet(t)
	for _, query := range f.queries {
		require.NotEqual(t, query.AutomationsEnabled, !f.packs[0].Disabled, query.Name)
	}
}

func TestHostsWithoutTheExtensionStayQuiet(t *testing.T) {
	pack, f := readPack(t), readFleet(t)
	require.Len(t, pack.Discovery, 1)
	require.Len(t, f.labels, 1)
	require.Equal(t, pack.Discovery[0], f.labels[0].Query)
	require.Equal(t, "dynamic", f.labels[0].LabelMembershipType)
	require.Equal(t, []string{f.labels[0].Name}, f.packs[0].Targets.Labels)
}

// A shipping query has a cursor of its own, does not ship what any user can cause with
// anything else, and survives osquery's denylist: its reply is bounded.
func TestShippingQueriesHaveACursor(t *testing.T) {
	for name, query := range readPack(t).Queries {
		if removed(query) {
			continue
		}
		unprivileged := 0
		if name == "kernel_module_denied" {
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

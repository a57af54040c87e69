package packs_test

import (
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/kmodquery/kmodquery/test/osqueryhost"
)

var golden = flag.Bool("golden", false, "rewrite the files for Fleet and the example of docs/deploying.md")

// The keys that Fleet 4.82 and later reads. Sources: Fleet's documentation,
// docs/Configuration/yaml-files.md and the API's Create report, Add policy and Add label,
// to which it refers; docs/Contributing/guides/cli/fleetctl-apply.md; the package server/fleet,
// QuerySpec, PolicySpec, LabelSpec and PackSpec. A value is true if an entry needs the key.
var (
	labelKeys = map[string]bool{
		"name": true, "description": false, "query": true, "platform": false, "label_membership_type": true,
	}
	reportKeys = map[string]bool{
		"name": true, "description": false, "query": true, "interval": true, "platform": false, "min_osquery_version": false,
		"logging": true, "automations_enabled": true, "observer_can_run": false, "discard_data": false,
	}
	policyKeys = map[string]bool{
		"name": true, "description": true, "resolution": true, "query": true, "platform": true, "critical": false,
	}
	// targeted is the key that Fleet Premium knows besides. Only the GitOps form has it.
	targeted = map[string]bool{"labels_include_any": true}
	packKeys = map[string]bool{
		"name": true, "description": false, "platform": false, "disabled": false, "targets": true, "queries": true,
	}
	packQueryKeys = map[string]bool{
		"query": true, "name": true, "description": false, "interval": true, "snapshot": false, "removed": true,
		"shard": false, "platform": false, "version": false, "denylist": true,
	}
	documentKeys = map[string]bool{"apiVersion": true, "kind": true, "spec": true}
)

type (
	fleetLabel struct {
		Name                string
		Description         string
		Query               string
		LabelMembershipType string `yaml:"label_membership_type"`
	}
	fleetReport struct {
		Name               string
		Description        string
		Query              string
		Interval           int64
		Platform           string
		Logging            string
		AutomationsEnabled bool     `yaml:"automations_enabled"`
		LabelsIncludeAny   []string `yaml:"labels_include_any"`
	}
	fleetPolicy struct {
		Name             string
		Description      string
		Resolution       string
		Query            string
		Platform         string
		Critical         bool
		LabelsIncludeAny []string `yaml:"labels_include_any"`
	}
	fleetPack struct {
		Name        string
		Description string
		Disabled    bool
		Targets     struct{ Labels []string }
		Queries     []fleetPackQuery
	}
	fleetPackQuery struct {
		Query    string
		Name     string
		Interval int64
		Platform string
		Removed  bool
		Snapshot bool
		Denylist bool
	}
)

type fleet struct {
	labels   []fleetLabel
	reports  []fleetReport
	policies []fleetPolicy
	packs    []fleetPack
}

// readFleet reads the lists of the GitOps form.
func readFleet(t *testing.T) fleet {
	t.Helper()
	return fleet{
		labels:   readList[fleetLabel](t, "labels.yml", labelKeys),
		reports:  readList[fleetReport](t, "reports.yml", reportKeys, targeted),
		policies: readList[fleetPolicy](t, "policies.yml", policyKeys, targeted),
	}
}

// readApply reads the documents for fleetctl apply.
func readApply(t *testing.T) (f fleet) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("fleet", "apply.yml"))
	require.NoError(t, err)
	for i, text := range strings.Split(string(content), "\n---\n")[1:] {
		where := fmt.Sprint("apply.yml, document ", i)
		var document map[string]any
		require.NoError(t, yaml.Unmarshal([]byte(text), &document), where)
		requireKeys(t, document, where, documentKeys)
		require.Equal(t, "v1", document["apiVersion"], where)
		spec, err := yaml.Marshal(document["spec"])
		require.NoError(t, err)
		switch kind := document["kind"]; kind {
		case "label":
			f.labels = append(f.labels, parse[fleetLabel](t, spec, where, labelKeys))
		case "report":
			f.reports = append(f.reports, parse[fleetReport](t, spec, where, reportKeys))
		case "policy":
			f.policies = append(f.policies, parse[fleetPolicy](t, spec, where, policyKeys))
		case "pack":
			f.packs = append(f.packs, parse[fleetPack](t, spec, where, packKeys))
			for _, query := range document["spec"].(map[string]any)["queries"].([]any) {
				requireKeys(t, query.(map[string]any), where, packQueryKeys)
			}
		default:
			require.Fail(t, "no documents of this kind", kind)
		}
	}
	return f
}

func readList[T any](t *testing.T, name string, keys ...map[string]bool) (list []T) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("fleet", name))
	require.NoError(t, err)
	var entries []yaml.Node
	require.NoError(t, yaml.Unmarshal(content, &entries), "%s is a bare list", name)
	require.NotEmpty(t, entries)
	for i := range entries {
		entry, err := yaml.Marshal(&entries[i])
		require.NoError(t, err)
		list = append(list, parse[T](t, entry, fmt.Sprint(name, ", entry ", i), keys...))
	}
	return list
}

// parse reads an entry, which has keys of the given ones only, and all that it needs.
func parse[T any](t *testing.T, content []byte, where string, keys ...map[string]bool) (value T) {
	t.Helper()
	var entry map[string]any
	require.NoError(t, yaml.Unmarshal(content, &entry), where)
	requireKeys(t, entry, where, keys...)
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	decoder.KnownFields(true)
	require.NoError(t, decoder.Decode(&value), where)
	return value
}

func requireKeys(t *testing.T, entry map[string]any, where string, keys ...map[string]bool) {
	t.Helper()
	known := map[string]bool{}
	for _, k := range keys {
		maps.Copy(known, k)
	}
	for key := range entry {
		require.Contains(t, known, key, where)
	}
	for key, isNeeded := range known {
		if isNeeded {
			require.Contains(t, entry, key, where)
		}
	}
}

// requireFile compares a file with the wanted content, or rewrites it with -golden.
func requireFile(t *testing.T, path, want string) {
	t.Helper()
	if *golden {
		require.NoError(t, os.WriteFile(path, []byte(want), 0o644))
	}
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, want, string(got), "%s differs; if that is intended, run make golden", path)
}

// folded returns a key of YAML with its text over several lines.
func folded(key, text string) string {
	var b strings.Builder
	b.WriteString("  " + key + ": >-")
	width := 80
	for word := range strings.FieldsSeq(text) {
		if width += 1 + len(word); width > 78 {
			b.WriteString("\n   ")
			width = 4 + len(word)
		}
		b.WriteString(" " + word)
	}
	return b.String() + "\n"
}

func report(name string, query osqueryhost.Query, pack osqueryhost.Pack, isAutomated bool) string {
	return folded("description", query.Description) + folded("query", query.Query) +
		fmt.Sprintf("  interval: %d\n  platform: %s\n  logging: %s\n  automations_enabled: %t\n",
			*query.Interval, cmp.Or(query.Platform, pack.Platform), logging(query), isAutomated)
}

func logging(query osqueryhost.Query) string {
	if query.Snapshot {
		return "snapshot"
	}
	if removed(query) {
		return "differential"
	}
	return "differential_ignore_removals"
}

// The files for Fleet are made from osquery's pack, and from the hand-written labels and
// policies.
func TestFleetFilesAreAsPublished(t *testing.T) {
	pack := readPack(t)
	names := slices.Sorted(maps.Keys(pack.Queries))
	var list strings.Builder
	list.WriteString("# A list for the key reports of Fleet's GitOps. docs/deploying.md explains it.\n" +
		"# Written by \"go test ./packs -golden\" from kernel-modules.conf.\n")
	for _, name := range names {
		list.WriteString("- name: " + name + "\n" + report(name, pack.Queries[name], pack, true) + "  labels_include_any: [kmodquery]\n")
	}
	requireFile(t, "fleet/reports.yml", list.String())

	var documents strings.Builder
	documents.WriteString(`# For fleetctl apply -f apply.yml. docs/deploying.md explains it.
# Written by "go test ./packs -golden" from kernel-modules.conf, labels.yml and policies.yml.
`)
	document := func(kind, name, spec string) {
		documents.WriteString("---\napiVersion: v1\nkind: " + kind + "\nspec:\n  name: " + name + "\n" + spec)
	}
	f := readFleet(t)
	for _, l := range f.labels {
		document("label", l.Name, folded("description", l.Description)+folded("query", l.Query)+"  label_membership_type: "+l.LabelMembershipType+"\n")
	}
	for _, name := range names {
		document("report", name, report(name, pack.Queries[name], pack, false))
	}
	for _, p := range f.policies {
		document("policy", p.Name, folded("description", p.Description)+folded("resolution", p.Resolution)+folded("query", p.Query)+
			fmt.Sprintf("  platform: %s\n  critical: %t\n", p.Platform, p.Critical))
	}
	queries := ""
	for _, name := range names {
		query := pack.Queries[name]
		queries += fmt.Sprintf("    - query: %s\n      name: %s\n      interval: %d\n      platform: %s\n      removed: %t\n      denylist: %t\n",
			name, name, *query.Interval, cmp.Or(query.Platform, pack.Platform), removed(query), query.Denylist == nil || bool(*query.Denylist))
		if query.Snapshot {
			queries += "      snapshot: true\n"
		}
	}
	document("pack", pack.Name, "  description: Kernel module loads, detections and sensor health.\n  disabled: false\n"+
		"  targets:\n    labels: [kmodquery]\n  queries:\n"+queries)
	requireFile(t, "fleet/apply.yml", documents.String())
}

// Fleet reads the same queries as osquery, in both forms.
func TestFleetHasTheSameQueries(t *testing.T) {
	pack := readPack(t)
	for _, f := range []fleet{readFleet(t), readApply(t)} {
		require.Len(t, f.reports, len(pack.Queries))
		for _, got := range f.reports {
			want, ok := pack.Queries[got.Name]
			require.True(t, ok, got.Name)
			require.Equal(t, want.Query, got.Query, got.Name)
			require.Equal(t, want.Description, got.Description, got.Name)
			require.EqualValues(t, *want.Interval, got.Interval, got.Name)
			require.Equal(t, cmp.Or(want.Platform, pack.Platform), got.Platform, got.Name)
			require.Equal(t, logging(want), got.Logging, got.Name)
		}
	}
}

// Fleet schedules both packs and reports with automations. A query that is scheduled by
// both is shipped twice.
func TestFleetSchedulesEachQueryOnce(t *testing.T) {
	f := readFleet(t)
	require.Empty(t, f.packs)
	for _, r := range f.reports {
		require.True(t, r.AutomationsEnabled, r.Name)
	}
	f = readApply(t)
	require.Len(t, f.packs, 1)
	require.False(t, f.packs[0].Disabled)
	require.Len(t, f.packs[0].Queries, len(f.reports))
	pack := readPack(t)
	for i, r := range f.reports {
		require.False(t, r.AutomationsEnabled, r.Name)
		want := pack.Queries[r.Name]
		require.Equal(t, fleetPackQuery{
			Query: r.Name, Name: r.Name, Interval: r.Interval, Platform: r.Platform, Removed: removed(want), Snapshot: bool(want.Snapshot), Denylist: removed(want),
		}, f.packs[0].Queries[i])
	}
}

func TestHostsWithoutTheExtensionStayQuiet(t *testing.T) {
	pack, f, applied := readPack(t), readFleet(t), readApply(t)
	require.Len(t, pack.Discovery, 1)
	require.Len(t, f.labels, 1)
	require.Equal(t, f.labels, applied.labels)
	require.Equal(t, pack.Discovery[0], f.labels[0].Query)
	require.Equal(t, "dynamic", f.labels[0].LabelMembershipType)
	label := []string{f.labels[0].Name}
	for _, r := range f.reports {
		require.Equal(t, label, r.LabelsIncludeAny, r.Name)
	}
	for _, p := range f.policies {
		require.Equal(t, label, p.LabelsIncludeAny, p.Name)
	}
	require.Equal(t, label, applied.packs[0].Targets.Labels)
}

// On Fleet Free, which refuses labels_include_any, the guide removes lines with sed.
func TestLabelsAreLinesOfTheirOwn(t *testing.T) {
	for name, entries := range map[string]int{"reports.yml": len(readPack(t).Queries), "policies.yml": len(readFleet(t).policies)} {
		content, err := os.ReadFile(filepath.Join("fleet", name))
		require.NoError(t, err)
		require.Equal(t, entries, strings.Count(string(content), "\n  labels_include_any: [kmodquery]\n"), name)
	}
}

// GitOps replaces $NAME by the environment, and what a file does not list is deleted. So
// the snippet is no file that GitOps would accept.
func TestSnippetIsNoCompleteFile(t *testing.T) {
	content, err := os.ReadFile("fleet/default.snippet.txt")
	require.NoError(t, err)
	var snippet map[string][]map[string]string
	require.NoError(t, yaml.Unmarshal(content, &snippet))
	require.Equal(t, []string{"labels", "policies", "reports"}, slices.Sorted(maps.Keys(snippet)))
	for key, entries := range snippet {
		require.Equal(t, []map[string]string{{"path": "lib/kmodquery/" + key + ".yml"}}, entries)
		list, err := os.ReadFile(filepath.Join("fleet", key+".yml"))
		require.NoError(t, err)
		require.NotContains(t, string(list), "$")
	}
	guide, err := os.ReadFile(guideFile)
	require.NoError(t, err)
	_, lines, _ := strings.Cut(string(content), "\nlabels:")
	require.Contains(t, string(guide), "labels:"+lines)
}

package tables

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/tables/rules"
	"github.com/kmodquery/kmodquery/tables/signatures"
)

// writeFile writes a file that appears at once.
func writeFile(t *testing.T, path, content string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path+".new", []byte(content), 0o644))
	require.NoError(t, os.Rename(path+".new", path))
}

// withRules returns a configuration with a folder of rules.
func withRules(t *testing.T, c Config, files map[string]string) (Config, string) {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		writeFile(t, filepath.Join(dir, name), content)
	}
	c.Rules = rules.Open(rules.Options{Rules: dir, Columns: RuleColumns(), Signatures: signatures.All()}).RuleSet
	return c, dir
}

func aRule(id, severity, condition string) string {
	return "id: " + id + "\nversion: 2\nname: A rule\nseverity: " + severity + "\ntactic: persistence\ntechnique: T1547.006\nreason: nobody does that\ndescription: Text.\ncondition: " + condition + "\n"
}

func TestRulesAreFindingsOfTheRowOfALoad(t *testing.T) {
	c, _ := withRules(t, testConfig(t), map[string]string{"a.yaml": aRule("ACME-1", "4", `name == "bad" and outcome == "init_failed"`) + "---\n" + aRule("ACME-2", "1", `outcome == "denied"`)})
	store(t, c, loadOf("1", "good", 0)...)
	store(t, c, loadOf("2", "bad", -19)...)
	store(t, c, kmodquery.Event{Time: 1_700_000_000, EventName: kmodquery.EventInitModule, Source: kmodquery.SourceEBPF, Result: new(int64(-1)), Error: "EPERM"})
	loads := rowsOf(t, c, loadsTable, "{}")
	require.Equal(t, []string{"ACME-2,TRC-1017", "ACME-1,TRC-1017", "TRC-1017"}, column(loads, "findings"))
	require.Equal(t, []string{"2", "4", "2"}, column(loads, "severity"))
	require.Equal(t, []string{"2", "4", "2"}, column(rowsOf(t, c, loadsTable, contextJSON(t, []string{"severity"})), "severity"), "the columns of the condition are read")

	found := rowsOf(t, c, findingsTable, contextJSON(t, nil, constraint{"signature_id", "ACME-1", equals}))
	require.Len(t, found, 1)
	require.Equal(t, loads[1]["eid"], found[0]["eid"], "it is ordered by the event that closes the load")
	require.Equal(t, `load of "bad" (init_failed): nobody does that`, found[0]["reason"])
	require.Equal(t, `{"name":"bad"}`, found[0]["data"])
	require.Equal(t, []string{"4", "load_closed", "2", "kernel_module_rule", "0"},
		[]string{found[0]["severity"], found[0]["trigger"], found[0]["signature_version"], found[0]["event_name"], found[0]["unprivileged"]})
	require.Equal(t, []string{"1"}, column(rowsOf(t, c, findingsTable, contextJSON(t, nil, constraint{"signature_id", "ACME-2", equals})), "unprivileged"))
	require.Len(t, rowsOf(t, c, findingsTable, contextJSON(t, []string{})), 5)
}

func TestACursorGivesTheFindingsOfRulesInOrder(t *testing.T) {
	c, _ := withRules(t, testConfig(t), map[string]string{"a.yaml": aRule("ACME-1", "4", `has(name)`)})
	ask := func() []string {
		return column(rowsOf(t, c, findingsTable, contextJSON(t, nil, constraint{"cursor", "c", equals})), "signature_id")
	}
	require.Empty(t, ask())
	for i, name := range []string{"a", "b"} {
		store(t, c, loadOf(name, name, 0)...)
		require.Equal(t, []string{"TRC-1017", "ACME-1", "TRC-1017", "ACME-1"}[:2*(i+1)], ask())
	}
}

func TestRulesThatChangeAreInForceInTheNextQuery(t *testing.T) {
	c, dir := withRules(t, testConfig(t), nil)
	store(t, c, loadOf("1", "good", 0)...)
	require.Equal(t, []string{"TRC-1017"}, column(rowsOf(t, c, loadsTable, "{}"), "findings"))
	writeFile(t, filepath.Join(dir, "a.yaml"), aRule("ACME-1", "4", `true`))
	require.Equal(t, []string{"ACME-1,TRC-1017"}, column(rowsOf(t, c, loadsTable, "{}"), "findings"))
}

func TestSensorsNameTheRulesInForce(t *testing.T) {
	c, dir := withRules(t, testConfig(t), map[string]string{"a.yaml": aRule("ACME-1", "4", `int(name) == 1`)})
	c.Recorder.(*recorder).sensors = []kmodquery.Sensor{{Source: "ebpf"}}
	asked := contextJSON(t, []string{"rules", "rules_hash", "rule_errors", "rules_reason"})
	row := rowsOf(t, c, "kernel_module_sensors", asked)[0]
	require.Equal(t, []string{"1", "0"}, []string{row["rules"], row["rule_errors"]})
	require.NotContains(t, row, "rules_reason")
	store(t, c, loadOf("1", "good", 0)...)
	require.Equal(t, []string{"TRC-1017"}, column(rowsOf(t, c, loadsTable, "{}"), "findings"))
	writeFile(t, filepath.Join(dir, "b.yaml"), "nonsense: 1\n")
	again := rowsOf(t, c, "kernel_module_sensors", asked)[0]
	require.Equal(t, []string{"1", "1", row["rules_hash"]}, []string{again["rules"], again["rule_errors"], again["rules_hash"]})
	require.Contains(t, again["rules_reason"], filepath.Join(dir, "b.yaml")+`:1: there is no field "nonsense"`)
	require.Contains(t, again["rules_reason"], "the rule ACME-1 ("+filepath.Join(dir, "a.yaml")+":1) failed on 1 loads")
}

// Conditions can read each column that is fixed when the row is stored.
func TestRulesKnowTheColumnsOfLoads(t *testing.T) {
	for _, name := range RuleColumns() {
		condition := "has(" + name + ")"
		c, _ := withRules(t, testConfig(t), map[string]string{"a.yaml": aRule("ACME-1", "4", condition)})
		require.Empty(t, c.Rules().Status.Reason)
	}
	for _, name := range append(laterColumns, "cursor") {
		c, _ := withRules(t, testConfig(t), map[string]string{"a.yaml": aRule("ACME-1", "4", "has("+name+")")})
		require.True(t, strings.Contains(c.Rules().Status.Reason, "there is no column"), name)
	}
}

func TestExpectationsLowerTheSeverityAndHideNothing(t *testing.T) {
	c := testConfig(t)
	c.Signatures = signatures.All()
	events := func() []kmodquery.Event { return append(loadOf("1", "good", 0), loadOf("2", "bad", 0)...) }
	store(t, c, events()...)
	before := rowsOf(t, c, findingsTable, "{}")
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "a.yaml"), "- modules: good\n  paths: /tmp/*.ko\n")
	c.Rules = rules.Open(rules.Options{Expectations: dir}).RuleSet
	after := rowsOf(t, c, findingsTable, "{}")
	require.Equal(t, column(before, "rowid"), column(after, "rowid"))
	for i, row := range after {
		if row["name"] == "good" {
			require.Equal(t, []string{"0", filepath.Join(dir, "a.yaml") + ":1"}, []string{row["severity"], row["expected_by"]})
		} else {
			require.NotContains(t, row, "expected_by")
			require.Equal(t, before[i], row)
		}
	}
	loads := rowsOf(t, c, loadsTable, "{}")
	require.Equal(t, []string{"bad", "good"}, column(loads, "name"))
	require.Equal(t, []string{"3", "0"}, column(loads, "severity"))
	require.Equal(t, loads[0]["findings"], loads[1]["findings"])

	ask := func(op int, severity string) []map[string]string {
		return rowsOf(t, c, findingsTable, contextJSON(t, []string{"name", "severity"}, constraint{"severity", severity, op}))
	}
	require.Contains(t, ask(equals, "0"), map[string]string{"name": "good", "severity": "0", "rowid": after[len(after)-1]["rowid"]})
	require.NotEmpty(t, ask(32, "3"), "a constraint on severity still finds what is not expected")
	require.NotContains(t, column(ask(32, "3"), "severity"), "NULL")
}

// What an expectation compares is read, whatever the query and the signatures read.
func TestTheFactsOfExpectationsAreRead(t *testing.T) {
	c := testConfig(t)
	store(t, c, loadOf("1", "good", 0)...)
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "a.yaml"), "- paths: /tmp/*.ko\n  loaders: /usr/bin/kmod\n")
	c.Rules = rules.Open(rules.Options{Expectations: dir}).RuleSet
	for _, table := range []string{findingsTable, loadsTable} {
		require.Equal(t, []string{"0"}, column(rowsOf(t, c, table, contextJSON(t, []string{"severity"})), "severity"), table)
	}
}

func TestEachFindingHasTheColumnsThatWereAskedFor(t *testing.T) {
	c := testConfig(t)
	store(t, c, loadOf("1", "good", 0)...)
	var programs []string
	require.NoError(t, EachFinding(t.Context(), c, []string{"process_path"}, func(f *kmodquery.Finding) error {
		programs = append(programs, f.ID+" "+f.Event.ProcessPath)
		return nil
	}))
	require.Equal(t, []string{"TRC-1017 /usr/bin/kmod"}, programs)
}

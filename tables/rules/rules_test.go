package rules

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/tables/signatures"
)

func ptr[T any](v T) *T { return &v }

var testColumns = []string{
	"time", "utc", "name", "path", "origin", "sha256", "signature_status", "signer", "outcome", "result", "error", "process_path", "cmdline", "uid", "user_name",
	"ancestors", "container_id", "params", "taints", "sources", "event_eid", "unprivileged",
}

// load is the closing event of a load.
func load(changes ...func(*kmodquery.Event)) *kmodquery.Event {
	e := &kmodquery.Event{
		EventName: kmodquery.EventLoadClosed, EID: 9, Name: "dummy", Path: "/tmp/dummy.ko", Origin: "file", UID: ptr(int64(1000)), Taints: ptr(int64(4096)),
		ProcessPath: "/usr/bin/kmod", Ancestors: `[{"pid":1,"path":"/usr/sbin/nginx"}]`,
		Raw: `{"outcome":"loaded","sources":"ebpf,audit","event":7,"user":"eve"}`,
	}
	for _, change := range changes {
		change(e)
	}
	return e
}

func ruleText(id, condition string) string {
	return fmt.Sprintf("id: %s\nversion: 1\nname: A rule\nseverity: 3\ntactic: persistence\ntechnique: T1547.006\nreason: nobody does that here\ndescription: Text.\ncondition: |\n  %s\n",
		id, strings.ReplaceAll(condition, "\n", "\n  "))
}

func evaluate(t *testing.T, condition string, e *kmodquery.Event) (bool, error) {
	t.Helper()
	c, err := compile(condition, columnsOf(testColumns))
	require.NoError(t, err, condition)
	return c.evaluate(e)
}

func TestConditionsReadTheColumnsOfALoad(t *testing.T) {
	for _, condition := range []string{
		`path startsWith "/tmp/"`, `name == "dummy" and uid == 1000`, `uid in [0, 1000] && name in ["a", "dummy"]`, `not (path startsWith "/usr/")`,
		`path matches "^/tmp/[a-z]+[.]ko$"`, `has(container_id) or outcome == "loaded"`, `not has(container_id)`, `user_name == "eve" and sources contains "audit"`,
		`ancestors contains "/usr/sbin/nginx"`, `bitand(taints, 4096) != 0`, `lower(name) == "dummy"`, `len(name) > 4`, `event_eid == 7`, `unprivileged == 0`,
		`utc == "1970-01-01 00:00:00"`, `uid == 0 ? false : true`, "name == \"dummy\"\n// a comment\nand uid > 999", `path endsWith '.ko' and path != ""`,
	} {
		got, err := evaluate(t, condition, load())
		require.NoError(t, err, condition)
		require.True(t, got, condition)
	}
}

// An evaluation that needs a column without a value is no match, whatever the operator is.
func TestColumnsWithoutAValueAreNoMatch(t *testing.T) {
	for _, condition := range []string{
		`signer == ""`, `signer != "x"`, `not (signer == "x")`, `not (signer in ["x"])`, `result != 0`, `not (result > 0)`, `not (signer matches "x")`, `not (signer startsWith "x")`,
	} {
		got, err := evaluate(t, condition, load())
		require.ErrorIs(t, err, errAbsent, condition)
		require.False(t, got, condition)
	}
	for _, condition := range []string{`has(signer) and signer != "x"`, `name == "x" and signer == "y"`} {
		got, err := evaluate(t, condition, load())
		require.NoError(t, err)
		require.False(t, got)
	}
	got, err := evaluate(t, `params == ""`, load(func(e *kmodquery.Event) { e.Params = ptr("") }))
	require.NoError(t, err)
	require.True(t, got, "no parameters are known")
}

func TestConditionsShowTextAsTheTableDoes(t *testing.T) {
	got, err := evaluate(t, `name == "a\\x1b"`, load(func(e *kmodquery.Event) { e.Name = "a\x1b" }))
	require.NoError(t, err)
	require.True(t, got)
}

func TestMistakesInConditions(t *testing.T) {
	for condition, want := range map[string]string{
		`nam == "x"`:                            `there is no column "nam"; the nearest is name`,
		`findings contains "KMQ"`:               `there is no column "findings"`,
		`severity > 2`:                          `there is no column "severity"`,
		`uid == "root"`:                         "mismatched types int and string",
		`name`:                                  "expected bool, but got string",
		`name matches uid`:                      "matches takes a regular expression in quotes",
		`name matches "("`:                      "missing closing )",
		`name matches "(a{1000}){1000}"`:        "invalid repeat count",
		`name matches "(a{500}|b{500}|c{500})"`: "too large",
		`all([1], # > 0)`:                       "a condition has no function all",
		`1..1000000 == []`:                      "no operator ..",
		`let x = name; x == "a"`:                "a condition has only",
		`(name ?? "x") == "x"`:                  "no operator ??",
		`signer == nil`:                         "write has(COLUMN)",
		`$env == 1`:                             `there is no column "$env"`,
		`#row == 1`:                             `unexpected token Operator("#")`,
		`now() == 1`:                            "no function now",
		`has("name")`:                           "has takes one column",
		`has(name, path)`:                       "has takes one column",
		`name.foo == 1`:                         "a condition has only",
		`repeat(name, 9) == ""`:                 "no function repeat",
		`name + path == ""`:                     "no operator +",
		`name == "x`:                            "literal not terminated",
		``:                                      "unexpected token EOF",
		strings.Repeat("(", maxCondition+1):     "more than 8192 bytes",
		strings.Repeat("not ", 1100) + "true":   "more than 1000 operands",
	} {
		_, err := compile(condition, columnsOf(testColumns))
		require.ErrorContains(t, err, want, condition)
		require.NotContains(t, err.Error(), "\n")
	}
}

func TestEvaluationsHaveABoundedCost(t *testing.T) {
	condition := strings.Repeat(`ancestors matches "(x|y|z)*[0-9]{200}$" or `, 8) + "false"
	_, err := evaluate(t, condition, load(func(e *kmodquery.Event) { e.Ancestors = strings.Repeat("x", 16<<10) }))
	require.ErrorIs(t, err, errCost)
}

// folder returns a folder with files.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		write(t, dir, name, content)
	}
	return dir
}

// write replaces a file at once, as editors do.
func write(t *testing.T, dir, name, content string) {
	t.Helper()
	temporary := filepath.Join(dir, "."+name)
	require.NoError(t, os.WriteFile(temporary, []byte(content), 0o644))
	require.NoError(t, os.Rename(temporary, filepath.Join(dir, name)))
}

func openRules(t *testing.T, dir string) *Folders {
	t.Helper()
	return Open(Options{Rules: dir, Columns: testColumns, Signatures: signatures.All()})
}

func ids(set kmodquery.RuleSet) []string {
	all := []string{}
	for _, r := range set.Rules {
		all = append(all, r.ID)
	}
	return all
}

func TestRulesBecomeSignatures(t *testing.T) {
	dir := folder(t, map[string]string{"b.yaml": ruleText("ACME-2", `name == "x"`) + "---\n" + ruleText("ACME-3", "true"), "a.yaml": "# none\n", "c.txt": "no: rule", ".d.yaml": "no: rule"})
	set := openRules(t, dir).RuleSet()
	require.Empty(t, set.Status.Reason)
	require.Equal(t, []string{"ACME-2", "ACME-3"}, ids(set))
	require.EqualValues(t, 2, set.Status.Rules)
	require.Len(t, set.Status.RulesHash, 64)
	rule := set.Rules[1]
	require.Equal(t, kmodquery.Metadata{
		ID: "ACME-3", Version: "1", Name: "A rule", EventName: "kernel_module_rule", Description: "Text.", Severity: 3, Category: "persistence",
		Technique: "Kernel Modules and Extensions", KubernetesTechnique: "N/A", AttackID: "attack-pattern--a1b52199-c8c5-438a-9ded-656f1d0888c6", ExternalID: "T1547.006",
	}, rule.Metadata)
	reason, ok := rule.Match(load())
	require.True(t, ok)
	require.Equal(t, `load of "dummy" (loaded): nobody does that here`, reason)
	_, ok = rule.Match(load(func(e *kmodquery.Event) { e.EventName = "module_load" }))
	require.False(t, ok, "only the event that closes a load is evaluated")
	_, ok = set.Rules[0].Match(load())
	require.False(t, ok)
}

func TestMistakesInRulesNameTheFileAndTheLine(t *testing.T) {
	good := ruleText("ACME-1", "true")
	for content, want := range map[string]string{
		strings.Replace(good, "severity: 3", "severity: 5", 1):             `:4: severity "5" must be a number from 0 to 4`,
		strings.Replace(good, "severity: 3\n", "", 1):                      `:1: severity is missing`,
		strings.Replace(good, "name:", "nmae:", 1):                         `:3: there is no field "nmae"; the nearest is name`,
		strings.Replace(good, "ACME-1", "KMQ-1001", 1):                     `:1: id KMQ-1001 is reserved`,
		strings.Replace(good, "ACME-1", "trc-9", 1):                        `:1: id trc-9 is reserved`,
		strings.Replace(good, "ACME-1", "a,b", 1):                          `:1: id "a,b" must begin with a letter`,
		strings.Replace(good, "persistence", "evil", 1):                    `:5: tactic "evil" must be one of`,
		strings.Replace(good, "T1547.006", "T1", 1):                        `:6: technique "T1" must be`,
		good + "---\n" + good:                                              `:12: id ACME-1 is that of the rule in `,
		good + "id: x\n":                                                   `:11: id is set twice`,
		"- a\n":                                                            `:1: there must be a mapping`,
		"id: x\na: b: c\n":                                                 `:2: yaml: mapping values are not allowed`,
		ruleText("A", "name == \"x\"\nand nam == \"y\""):                   `:11: condition: there is no column "nam"`,
		strings.Replace(good, "condition: |\n  true", "condition: nam", 1): `:9: condition: there is no column "nam"`,
		strings.Replace(good, "condition: |\n  true", "condition: *x", 1):  `yaml: unknown anchor`,
		strings.Replace(good, "name: A rule", "name: [A rule]", 1):         `:3: name takes a text`,
		strings.Replace(good, "A rule", strings.Repeat("x", maxText+1), 1): `:3: name has more than 4096 bytes`,
	} {
		dir := folder(t, map[string]string{"a.yaml": content})
		set := openRules(t, dir).RuleSet()
		require.Contains(t, set.Status.Reason, filepath.Join(dir, "a.yaml"))
		require.Contains(t, set.Status.Reason, want)
		require.NotContains(t, set.Status.Reason, "\n")
		require.Empty(t, set.Rules)
	}
}

func TestRulesAreReadAgainAndAMistakeKeepsTheFormer(t *testing.T) {
	dir := folder(t, map[string]string{"a.yaml": ruleText("ACME-1", "true")})
	var reported []string
	f := Open(Options{Rules: dir, Columns: testColumns, Report: func(err error) { reported = append(reported, err.Error()) }})
	before := f.RuleSet()
	require.Equal(t, []string{"ACME-1"}, ids(before))

	write(t, dir, "b.yaml", ruleText("ACME-2", "true"))
	after := f.RuleSet()
	require.Equal(t, []string{"ACME-1", "ACME-2"}, ids(after))
	require.NotEqual(t, before.Status.RulesHash, after.Status.RulesHash)

	write(t, dir, "a.yaml", ruleText("ACME-3", "nonsense"))
	for range 2 {
		kept := f.RuleSet()
		require.Equal(t, []string{"ACME-1", "ACME-2"}, ids(kept))
		require.Equal(t, after.Status.RulesHash, kept.Status.RulesHash)
		require.Contains(t, kept.Status.Reason, `a.yaml:10: condition: there is no column "nonsense"; what `+dir+" said before is in force")
	}
	require.Len(t, reported, 1)
	require.Len(t, f.Mistakes(), 1)

	write(t, dir, "a.yaml", ruleText("ACME-3", "true"))
	set := f.RuleSet()
	require.Equal(t, []string{"ACME-3", "ACME-2"}, ids(set))
	require.Empty(t, set.Status.Reason)
	require.NoError(t, os.Remove(filepath.Join(dir, "b.yaml")))
	require.Equal(t, []string{"ACME-3"}, ids(f.RuleSet()))
}

// The hash is what the commands of docs/rules.md print.
func TestTheHashCanBeComputedByHand(t *testing.T) {
	if _, err := exec.LookPath("sha256sum"); err != nil {
		t.Skip(err)
	}
	text, err := os.ReadFile("../../docs/rules.md")
	require.NoError(t, err)
	command := regexp.MustCompile("(?m)^cd /etc/kmodquery/rules.d; .*$").FindString(string(text))
	dir := folder(t, map[string]string{"a.yaml": ruleText("ACME-1", "true"), "B.yaml": ruleText("ACME-2", "true"), "c.txt": ""})
	out, err := exec.Command("sh", "-c", strings.Replace(command, "/etc/kmodquery/rules.d", dir, 1)).Output()
	require.NoError(t, err)
	require.Equal(t, openRules(t, dir).RuleSet().Status.RulesHash, strings.Fields(string(out))[0])
}

// awaitStamp waits until a change of the folder cannot have the stamp that it has now.
func awaitStamp(t *testing.T, dir string) {
	t.Helper()
	for isFinal := false; !isFinal; _, isFinal = stampOf(dir) {
		time.Sleep(tick / 4)
	}
}

func TestAFolderIsReadOnlyIfItHasChanged(t *testing.T) {
	dir := folder(t, map[string]string{"a.yaml": ""})
	awaitStamp(t, dir)
	n := 0
	w := watched[int]{path: dir, parse: func([]textFile) (int, int64, error) { n++; return n, 0, nil }}
	for range 3 {
		w.read(nil)
	}
	require.Equal(t, 1, n)
	path := filepath.Join(dir, "a.yaml")
	for i, change := range []func() error{
		func() error { return os.WriteFile(path, []byte("#a"), 0o644) }, // in place, with another size
		func() error { return os.WriteFile(path, []byte("#b"), 0o644) },
		func() error { return os.Rename(path, filepath.Join(dir, "b.yaml")) },
		func() error { return os.Remove(filepath.Join(dir, "b.yaml")) },
	} {
		require.NoError(t, change())
		w.read(nil)
		require.Equal(t, i+2, n)
		awaitStamp(t, dir)
		w.read(nil)
		require.Equal(t, i+2, n)
	}
	require.NoError(t, os.Chmod(dir, 0o777))
	w.read(nil)
	require.ErrorContains(t, w.mistake, "can be written by others")
}

// Queries run at once.
func TestRulesAreSafeForConcurrentCalls(t *testing.T) {
	dir := folder(t, map[string]string{"a.yaml": ruleText("ACME-1", "int(name) == 1")})
	f := openRules(t, dir)
	var queries sync.WaitGroup
	for i := range 4 {
		queries.Go(func() {
			for range 20 {
				if i == 0 {
					write(t, dir, "a.yaml", ruleText("ACME-1", "int(name) == "+strconv.Itoa(i)))
				}
				for _, r := range f.RuleSet().Rules {
					r.Match(load())
				}
			}
		})
	}
	queries.Wait()
	require.Equal(t, []string{"ACME-1"}, ids(f.RuleSet()))
}

func TestAtTheStartTheOtherFilesOfAMistakenOneAreInForce(t *testing.T) {
	dir := folder(t, map[string]string{"a.yaml": ruleText("ACME-1", "nonsense"), "b.yaml": ruleText("ACME-2", "true")})
	set := openRules(t, dir).RuleSet()
	require.Equal(t, []string{"ACME-2"}, ids(set))
	require.Contains(t, set.Status.Reason, "only the other files of "+dir+" are in force")
}

func TestFilesThatOthersCanWriteAreRefused(t *testing.T) {
	dir := folder(t, map[string]string{"a.yaml": ruleText("ACME-1", "true"), "b.yaml": ruleText("ACME-2", "true")})
	require.NoError(t, os.Chmod(filepath.Join(dir, "a.yaml"), 0o666))
	set := openRules(t, dir).RuleSet()
	require.Equal(t, []string{"ACME-2"}, ids(set))
	require.Contains(t, set.Status.Reason, "a.yaml can be written by others")

	empty := folder(t, nil)
	require.NoError(t, os.Chmod(empty, 0o777))
	require.Contains(t, openRules(t, empty).RuleSet().Status.Reason, empty+" can be written by others")
}

func TestFoldersAreBounded(t *testing.T) {
	many := map[string]string{}
	for i := range maxFiles + 1 {
		many[fmt.Sprintf("%d.yaml", i)] = ""
	}
	require.Contains(t, openRules(t, folder(t, many)).RuleSet().Status.Reason, "has 129 files, more than 128")
	large := map[string]string{"a.yaml": "#" + strings.Repeat("x", maxFileSize)}
	require.Contains(t, openRules(t, folder(t, large)).RuleSet().Status.Reason, "more than 262144 bytes")
	var text strings.Builder
	for i := range maxRules + 1 {
		text.WriteString("---\n" + ruleText(fmt.Sprintf("A-%d", i), "true"))
	}
	require.Contains(t, openRules(t, folder(t, map[string]string{"a.yaml": text.String()})).RuleSet().Status.Reason, "more than 128 rules")
	require.Contains(t, openRules(t, folder(t, map[string]string{"a.yml": ""})).RuleSet().Status.Reason, "rename it to a.yaml")
}

func TestFoldersThatDoNotExist(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "rules.d")
	require.Contains(t, openRules(t, missing).RuleSet().Status.Reason, "no such file")
	set := Open(Options{Rules: missing, IsOptional: true}).RuleSet()
	require.Zero(t, set.Status)
	require.Zero(t, Open(Options{}).RuleSet().Status)
}

func TestFailedEvaluationsAreCounted(t *testing.T) {
	dir := folder(t, map[string]string{"a.yaml": ruleText("ACME-1", `int(name) == 1`) + "---\n" + ruleText("ACME-2", `signer == "x"`)})
	f := openRules(t, dir)
	for _, rule := range f.RuleSet().Rules {
		_, ok := rule.Match(load())
		require.False(t, ok)
	}
	set := f.RuleSet()
	require.EqualValues(t, 1, set.Status.Errors, "a column without a value is no error")
	require.Contains(t, set.Status.Reason, "the rule ACME-1 ("+filepath.Join(dir, "a.yaml")+":1) failed on 1 loads, which it does not match: ")
	require.NotContains(t, set.Status.Reason, "ACME-2")
	require.NotContains(t, set.Status.Reason, "\n")
}

func FuzzRules(f *testing.F) {
	f.Add(ruleText("ACME-1", `path startsWith "/tmp/" and not has(container_id)`))
	f.Add("a: &a [*a]\n")
	f.Add(ruleText("A", `name matches "(a|b)*" ? uid > 1 : uid in [1, 2]`))
	columns := columnsOf(testColumns)
	f.Fuzz(func(t *testing.T, text string) {
		parsed, err := parseRules([]textFile{{"a.yaml", []byte(text)}}, columns, nil)
		if err != nil {
			require.NotEmpty(t, err.Error())
		}
		for _, r := range parsed {
			r.Match(load())
		}
	})
}

package rules

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

// learn returns what a learner makes of findings, whose loads succeeded unless closings say
// otherwise.
func learn(t *testing.T, findings []*kmodquery.Finding, outcomes map[string]string) Learned {
	t.Helper()
	l := NewLearner()
	for _, f := range findings {
		l.AddFinding(f)
	}
	for id := range l.loads {
		outcome := outcomes[id]
		if outcome == "" {
			outcome = kmodquery.OutcomeLoaded
		}
		l.AddClosing(&kmodquery.Event{EventName: kmodquery.EventLoadClosed, LoadID: id, Raw: `{"outcome":"` + outcome + `"}`})
	}
	return l.Learn()
}

// seen is a finding of TRC-1017 of a load.
func seen(id string, changes ...func(*kmodquery.Event)) *kmodquery.Finding {
	f := finding(func(e *kmodquery.Event) { e.LoadID = id })
	for _, change := range changes {
		change(f.Event)
	}
	f.ID, f.Severity = "TRC-1017", 2
	return f
}

func unsigned(e *kmodquery.Event) { e.SignatureStatus, e.Signer = kmodquery.SignatureUnsigned, "ACME" }

func TestLearnTakesSignersAndHashes(t *testing.T) {
	named := func(name string) func(*kmodquery.Event) { return func(e *kmodquery.Event) { e.Name = name } }
	other := strings.Repeat("cd", 32)
	learned := learn(t, []*kmodquery.Finding{
		seen("1", named("b")), seen("2", named("a")), seen("3", named("a"), func(e *kmodquery.Event) { e.ProcessPath = "/usr/lib/systemd/systemd-udevd" }),
		seen("4", named("c"), unsigned), seen("5", named("c"), unsigned, func(e *kmodquery.Event) { e.SHA256 = other }),
		seen("6", named("c"), unsigned, func(e *kmodquery.Event) { e.ProcessPath = "/usr/bin/other" }),
	}, nil)
	require.Equal(t, Learned{Taken: 6, LeftOut: map[string][]string{}, Entries: []Entry{
		{Modules: []string{"c"}, Hashes: []string{aHash, other}, Loaders: []string{"/usr/bin/kmod"}},
		{Modules: []string{"c"}, Hashes: []string{aHash}, Loaders: []string{"/usr/bin/other"}},
		{Modules: []string{"a", "b"}, Signers: []string{"ACME"}, Loaders: []string{"/usr/bin/kmod", "/usr/lib/systemd/systemd-udevd"}},
	}}, learned)

	unknown := func(e *kmodquery.Event) { e.Missing.Add("container_id") }
	require.Equal(t, []Entry{{Modules: []string{"zfs_core"}, Hashes: []string{aHash}}, {Modules: []string{"zfs_core"}, Signers: []string{"ACME"}}},
		learn(t, []*kmodquery.Finding{seen("1", unsigned, unknown), seen("2", unknown)}, nil).Entries, "a loader that may be in a container is not named")

	content, err := Format("two\nlines", learned.Entries)
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(string(content), "# two\n# lines\n- modules:\n    - c\n  hashes:\n"), string(content))
	set := openExpectations(t, string(content))
	require.Empty(t, set.Status.Reason)
	require.NotEmpty(t, set.Expected(seen("9", named("c"), unsigned)))
	require.Empty(t, set.Expected(seen("9", named("d"), unsigned)))
}

func TestLearnLeavesOut(t *testing.T) {
	severe := seen("severe", unsigned)
	severe.ID, severe.Severity = "KMQ-1002", 3
	expectedBefore := seen("expected")
	expectedBefore.ExpectedBy = "/x:1"
	hidden := func(name, id string) *kmodquery.Finding {
		return &kmodquery.Finding{Event: &kmodquery.Event{EventName: kmodquery.EventModuleHidden, Name: name, LoadID: id}}
	}
	for id, test := range map[string]struct {
		findings []*kmodquery.Finding
		outcome  string
		why      string
	}{
		"hash":     {[]*kmodquery.Finding{seen("hash", func(e *kmodquery.Event) { e.SHA256 = "" })}, "", "hash unknown"},
		"part":     {[]*kmodquery.Finding{seen("part", func(e *kmodquery.Event) { e.Missing.Add("sha256") })}, "", "hash unknown"},
		"hidden":   {[]*kmodquery.Finding{seen("hidden"), hidden("", "hidden")}, "", "a module of that name was hidden"},
		"name":     {[]*kmodquery.Finding{hidden("zfs_core", "other"), seen("name")}, "", "a module of that name was hidden"},
		"failed":   {[]*kmodquery.Finding{seen("failed")}, kmodquery.OutcomeInitFailed, "outcome init_failed"},
		"severe":   {[]*kmodquery.Finding{seen("severe"), severe}, "", "findings of a high severity: KMQ-1002"},
		"expected": {[]*kmodquery.Finding{expectedBefore}, "", "expected already"},
		"pattern":  {[]*kmodquery.Finding{seen("pattern", func(e *kmodquery.Event) { e.ProcessPath = "/**" })}, "", "* or ? in the loader's path"},
		"nameless": {[]*kmodquery.Finding{seen("nameless", func(e *kmodquery.Event) { e.Name = "" })}, "", "name unknown"},
	} {
		learned := learn(t, test.findings, map[string]string{id: test.outcome})
		require.Zero(t, learned.Taken, id)
		require.Empty(t, learned.Entries)
		require.Len(t, learned.LeftOut, 1, id)
		for why, names := range learned.LeftOut {
			require.Contains(t, why, test.why)
			require.Len(t, names, 1)
		}
	}
	open := NewLearner()
	open.AddFinding(seen("open"))
	require.Equal(t, map[string][]string{"outcome not known yet": {"zfs_core"}}, open.Learn().LeftOut)
	require.Len(t, learn(t, []*kmodquery.Finding{seen("")}, nil).LeftOut, 1)
	denied := func(e *kmodquery.Event) { e.EventName, e.Error, e.SHA256 = "finit_module", "EPERM", "" }
	require.Empty(t, learn(t, []*kmodquery.Finding{seen("d", denied)}, nil).LeftOut, "what any user can cause is not listed")
}

func TestFilesThatWouldBeRefusedAreNotWritten(t *testing.T) {
	_, err := Format("", make([]Entry, 1))
	require.ErrorContains(t, err, "an entry needs")
	_, err = Format(strings.Repeat("x", maxFileSize), nil)
	require.ErrorContains(t, err, "more than the 262144 that a file may have")
}

func TestAChangeIsComparedWithTheFolder(t *testing.T) {
	dir := folder(t, map[string]string{"a.yaml": "- paths: /x\n", "b.yaml": "- hashes: " + aHash})
	other := folder(t, map[string]string{"a.yaml": "- modules: [zfs_core]\n  signers: [ACME]\n", "b.yaml": "- paths: /y\n", "bad.yaml": "- x: 1"})
	met := func(expected func(*kmodquery.Finding) string) string {
		if expected == nil {
			return ""
		}
		return expected(finding())
	}
	for _, test := range []struct{ path, before, after string }{
		{filepath.Join(other, "a.yaml"), dir + "/b.yaml:1", other + "/a.yaml:1"},
		{filepath.Join(other, "b.yaml"), dir + "/b.yaml:1", ""},
		{filepath.Join(dir, "b.yaml"), "", dir + "/b.yaml:1"},
	} {
		before, after, err := Change(dir, false, test.path)
		require.NoError(t, err)
		require.Equal(t, test.before, met(before), test.path)
		require.Equal(t, test.after, met(after), test.path)
	}
	_, _, err := Change(dir, false, filepath.Join(other, "bad.yaml"))
	require.ErrorContains(t, err, `bad.yaml:1: there is no field "x"`)
	_, _, err = Change(dir, false, os.DevNull)
	require.ErrorContains(t, err, "is not a regular file")
	_, _, err = Change(dir, false, filepath.Join(other, "none.yaml"))
	require.ErrorContains(t, err, "no such file")
}

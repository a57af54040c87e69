package rules

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

var aHash = strings.Repeat("ab", 32)

// finding is a finding of a load that eBPF reported.
func finding(changes ...func(*kmodquery.Event)) *kmodquery.Finding {
	e := &kmodquery.Event{
		EventName: kmodquery.EventSecurityKernelReadFile, Source: kmodquery.SourceEBPF, Type: kmodquery.TypeKernelModule, ReportsLoad: ptr(int64(1)),
		Name: "zfs_core", Path: "/usr/lib/modules/6.12/updates/dkms/zfs-core.ko.xz", SHA256: aHash, SignatureStatus: kmodquery.SignatureValid, Signer: "ACME",
		ProcessPath: "/usr/bin/kmod",
	}
	for _, change := range changes {
		change(e)
	}
	return &kmodquery.Finding{Metadata: kmodquery.Metadata{ID: "KMQ-1001"}, Event: e}
}

func openExpectations(t *testing.T, text string) kmodquery.RuleSet {
	t.Helper()
	return Open(Options{Expectations: folder(t, map[string]string{"a.yaml": text})}).RuleSet()
}

func TestExpectationsAreMet(t *testing.T) {
	for text, want := range map[string]bool{
		"- hashes: [" + strings.Repeat("cd", 32) + ", " + strings.ToUpper(aHash) + "]": true,
		"- hashes: [" + strings.Repeat("cd", 32) + "]":                                 false,
		"- modules: zfs-core\n  hashes: " + aHash:                                      true,
		"- modules: [zfs]\n  hashes: " + aHash:                                         false,
		"- signers: [ACME]\n  loaders: [/usr/bin/kmod, /bin/x]":                        true,
		"- signers: [ACME]\n  loaders: [/usr/bin/insmod]":                              false,
		"- signers: [acme]": false,
		"- paths: [/usr/lib/modules/*/updates/dkms/*.ko*]":            true,
		"- paths: [/usr/lib/modules/*.ko.xz]":                         false,
		"- paths: [/usr/lib/modules/**.ko.xz]":                        true,
		"- paths: /usr/lib/modules/6?12/**":                           true,
		"- paths: /usr/lib/modules?6.12/**":                           false,
		"- paths: [/lib/modules/**]":                                  false,
		"- hashes: " + aHash + "\n  signatures: [kmq-1001, KMQ-1002]": true,
		"- hashes: " + aHash + "\n  signatures: KMQ-1002":             false,
		"- paths: /x\n- hashes: " + aHash + "\n  note: our own":       true,
	} {
		set := openExpectations(t, text)
		require.Empty(t, set.Status.Reason, text)
		require.Equal(t, want, set.Expected(finding()) != "", text)
	}
}

// What is unknown, in parts or forged meets no expectation.
func TestExpectationsAreNotMetByWhatIsUnknown(t *testing.T) {
	set := openExpectations(t, "- hashes: "+aHash+"\n- signers: ACME\n- paths: /usr/lib/**\n  loaders: /usr/bin/kmod\n")
	only := func(change func(*kmodquery.Event)) *kmodquery.Finding {
		return finding(func(e *kmodquery.Event) { e.SHA256, e.Signer, e.Path = "", "", "" }, change)
	}
	require.NotEmpty(t, set.Expected(only(func(e *kmodquery.Event) { e.SHA256 = aHash })))
	require.NotEmpty(t, set.Expected(only(func(e *kmodquery.Event) { e.ImageSHA256 = aHash })))
	require.NotEmpty(t, set.Expected(only(func(e *kmodquery.Event) { e.TeamID = "ACME" })))
	require.NotEmpty(t, set.Expected(only(func(e *kmodquery.Event) { e.Path = "/usr/lib/x.ko" })))
	for name, change := range map[string]func(*kmodquery.Event){
		"nothing is known":                  func(*kmodquery.Event) {},
		"the hash is not certain":           func(e *kmodquery.Event) { e.SHA256 = aHash; e.Missing.Add("sha256") },
		"the signature is not verified":     func(e *kmodquery.Event) { e.Signer, e.SignatureStatus = "ACME", kmodquery.SignatureUntrusted },
		"the path has no beginning":         func(e *kmodquery.Event) { e.Path = "/usr/lib/x.ko"; e.Missing.Add("path") },
		"the loader is unknown":             func(e *kmodquery.Event) { e.Path, e.ProcessPath = "/usr/lib/x.ko", "" },
		"a path in a container":             func(e *kmodquery.Event) { e.Path, e.ContainerID = "/usr/lib/x.ko", "abc" },
		"a path in what may be a container": func(e *kmodquery.Event) { e.Path = "/usr/lib/x.ko"; e.Missing.Add("container_id") },
		"an event that reports no load":     func(e *kmodquery.Event) { e.SHA256, e.ReportsLoad = aHash, ptr(int64(0)) },
		"a hidden module": func(e *kmodquery.Event) {
			e.SHA256, e.EventName, e.ReportsLoad = aHash, kmodquery.EventModuleHidden, nil
		},
		"a module whose load nothing witnessed": func(e *kmodquery.Event) { e.SHA256, e.EventName = aHash, kmodquery.EventModuleUnwitnessed },
	} {
		require.Empty(t, set.Expected(only(change)), name)
	}
}

func TestExpectationsSayWhichLineItWas(t *testing.T) {
	f := Open(Options{Expectations: folder(t, map[string]string{"b.yaml": "# a comment\n- paths: /x\n- hashes: " + aHash + "\n"})})
	require.Regexp(t, `/b\.yaml:3$`, f.RuleSet().Expected(finding()))
	status := f.RuleSet().Status
	require.EqualValues(t, 2, status.Expectations)
	require.Len(t, status.ExpectationsHash, 64)
	require.Empty(t, status.RulesHash)
}

func TestMistakesInExpectations(t *testing.T) {
	for text, want := range map[string]string{
		"modules: [a]":   ":1: there must be a list of entries",
		"- modules: [a]": ":1: an entry needs hashes, signers, paths or packages",
		"- paths: /x\n- loaders: [/usr/bin/kmod]": ":2: an entry needs hashes",
		"- paths: []":         ":1: paths is empty",
		"- paths:\n  - x":     `:2: paths: "x" must begin with a slash`,
		"- hashes: [abc]":     `:1: hashes: "abc" is no hash in hex`,
		"- hashs: x":          `:1: there is no field "hashs"; the nearest is hashes`,
		"- paths: {a: b}":     ":1: paths takes texts",
		"- paths: [/x, null]": ":1: paths takes texts",
		"- paths: [" + strings.Repeat("/x,", maxValues+1) + "]": "more than 4096 entries or 65536 values",
		strings.Repeat("- paths: /x\n", maxEntries+1):           ":4097: there are more than 4096 entries",
	} {
		set := openExpectations(t, text)
		require.Contains(t, set.Status.Reason, want)
		require.Nil(t, set.Expected)
	}
}

func TestAMistakeInExpectationsKeepsTheFormerOnes(t *testing.T) {
	dir := folder(t, map[string]string{"a.yaml": "- hashes: " + aHash})
	f := Open(Options{Expectations: dir})
	write(t, dir, "a.yaml", "- hashes: x")
	set := f.RuleSet()
	require.NotEmpty(t, set.Expected(finding()))
	require.Contains(t, set.Status.Reason, "what "+dir+" said before is in force")
	write(t, dir, "a.yaml", "")
	require.Nil(t, f.RuleSet().Expected)
}

func FuzzExpectations(f *testing.F) {
	f.Add("- modules: [a]\n  paths: /usr/**/?.ko\n  hashes: "+aHash, "/usr/a/b.ko")
	f.Fuzz(func(t *testing.T, text, path string) {
		all, err := parseExpectations([]textFile{{"a.yaml", []byte(text)}})
		if err == nil && len(all) > 0 {
			expected(all)(finding(func(e *kmodquery.Event) { e.Path = path }))
		}
	})
}

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/tables/sqlite"
)

// storeLoads stores loads in a state folder as a recorder does.
func storeLoads(t *testing.T, dir string, loads ...kmodquery.Event) {
	t.Helper()
	store, err := sqlite.Open(t.Context(), dir, sqlite.Options{Now: time.Now})
	require.NoError(t, err)
	var deliveries []kmodquery.Delivery
	for _, load := range loads {
		load.Time, load.Source, load.BootID = time.Now().Unix(), kmodquery.SourceEBPF, "boot"
		read, live, call := load, load, load
		read.EventName, read.Type, read.ReportsLoad = kmodquery.EventSecurityKernelReadFile, kmodquery.TypeKernelModule, new(int64(1))
		live.EventName, live.ReportsLoad = kmodquery.EventModuleLoad, new(int64(0))
		call.EventName, call.ReportsLoad, call.Result = kmodquery.EventFinitModule, new(int64(0)), new(int64(0))
		deliveries = append(deliveries, kmodquery.Delivery{Event: read}, kmodquery.Delivery{Event: live}, kmodquery.Delivery{Event: call})
	}
	require.NoError(t, store.Append(t.Context(), deliveries))
	require.NoError(t, store.CloseLoads(t.Context(), time.Now().Add(time.Minute)))
	require.NoError(t, store.Close())
}

func TestExpectLearnsAndChecks(t *testing.T) {
	dir, expected := t.TempDir(), t.TempDir()
	hash := strings.Repeat("ab", 32)
	storeLoads(t, dir,
		kmodquery.Event{LoadID: "1", Name: "loop", Path: "/usr/lib/modules/6.1/loop.ko", Origin: "file", SHA256: hash, SignatureStatus: "valid", Signer: "Debian", ProcessPath: "/usr/bin/kmod"},
		kmodquery.Event{LoadID: "2", Name: "zfs", Path: "/usr/lib/modules/6.1/updates/dkms/zfs.ko", Origin: "file", SHA256: hash, SignatureStatus: "unsigned", ProcessPath: "/usr/bin/kmod"},
		kmodquery.Event{LoadID: "3", Name: "evil\x1b", Path: "/tmp/evil.ko", Origin: "file", SHA256: hash, SignatureStatus: "unsigned", ProcessPath: "/usr/bin/kmod"},
	)
	ask := func(arguments ...string) (status int, stdout, stderr string) {
		var out, errors strings.Builder
		status = run(t.Context(), hostPlatform(), append(arguments, "--state-dir", dir, "--config", "", "--expect-dir", expected, "--rules-dir", "none"), input(t, ""), &out, &errors)
		return status, out.String(), errors.String()
	}
	path := filepath.Join(t.TempDir(), "learned.yaml")
	status, stdout, stderr := ask("expect", "learn", path)
	require.Zero(t, status, stderr)
	require.Equal(t, "took 2 loads into 2 entries\n"+
		"  zfs, by 1 hash, loaded by /usr/bin/kmod\n"+
		"  loop, by the signer Debian, loaded by /usr/bin/kmod\n"+
		`left out 1 load (findings of a high severity: KMQ-1002): evil\x1b`+"\n", stdout)
	content, err := os.ReadFile(path)
	require.NoError(t, err)

	status, stdout, stderr = ask("expect", "learn")
	require.Zero(t, status)
	lines := func(text string) []string { return strings.Split(text, "\n")[1:] } // without the time
	require.Equal(t, lines(string(content)), lines(stdout))
	require.Contains(t, stderr, "took 2 loads")
	status, _, stderr = ask("expect", "learn", path)
	require.Equal(t, exitFailed, status)
	require.Contains(t, stderr, "file exists")

	status, stdout, stderr = ask("expect", "check", path)
	require.Zero(t, status, stderr)
	require.Equal(t, "KMQ-1001: 1 finding of zfs: severity 1 becomes 0 by "+path+":2\n"+
		"TRC-1017: 1 finding of zfs: severity 2 becomes 0 by "+path+":2\n"+
		"TRC-1017: 1 finding of loop: severity 2 becomes 0 by "+path+":8\n"+
		"findings in the store: 6\n", stdout)

	require.NoError(t, os.WriteFile(filepath.Join(expected, "learned.yaml"), content, 0o644))
	status, stdout, _ = ask("query", "--format", "csv", "SELECT name, severity FROM kernel_module_findings WHERE severity > 0 ORDER BY severity")
	require.Zero(t, status)
	require.NotContains(t, stdout, "zfs")
	require.Contains(t, stdout, `evil\x1b,3`)
	status, stdout, _ = ask("expect", "learn")
	require.Zero(t, status)
	require.NotContains(t, stdout, "zfs", "what is expected already is not written again")

	fewer := filepath.Join(t.TempDir(), "learned.yaml")
	require.NoError(t, os.WriteFile(fewer, nil, 0o644))
	status, stdout, _ = ask("expect", "check", fewer)
	require.Zero(t, status)
	require.Contains(t, stdout, "TRC-1017: 2 findings of loop, zfs: severity 0 becomes 2, because nothing expects them any more\n")
	same := filepath.Join(t.TempDir(), "learned.yaml")
	require.NoError(t, os.WriteFile(same, content, 0o644))
	_, stdout, _ = ask("expect", "check", same)
	require.Equal(t, "no severity changes among the 6 findings in the store\n", stdout)
}

func TestExpectNeedsAStoreAndArguments(t *testing.T) {
	var stdout, stderr strings.Builder
	missing := filepath.Join(t.TempDir(), "none")
	require.Equal(t, exitFailed, run(t.Context(), hostPlatform(), []string{"expect", "learn", "--state-dir", missing}, input(t, ""), &stdout, &stderr))
	require.Contains(t, stderr.String(), "nothing was recorded there")
	require.NoDirExists(t, missing)
	for _, arguments := range [][]string{{"expect"}, {"expect", "check"}, {"expect", "learn", "a", "b"}, {"expect", "forget"}} {
		require.Equal(t, exitUsage, run(t.Context(), hostPlatform(), arguments, input(t, ""), &stdout, &stderr))
	}
	require.Contains(t, stderr.String(), "write: expect learn [FILE], or: expect check FILE")
}

func TestConfigCheckFindsMistakesInRules(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a.yaml"), []byte("- paths: x\n"), 0o644))
	var stdout, stderr strings.Builder
	status := run(t.Context(), hostPlatform(), []string{"config", "check", "--config", "", "--expect-dir", dir, "--rules-dir", "none"}, input(t, ""), &stdout, &stderr)
	require.Equal(t, exitFailed, status)
	require.Contains(t, stderr.String(), filepath.Join(dir, "a.yaml")+`:1: paths: "x" must begin with a slash`)
}

package main

import (
	"context"
	"log"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/test/osqueryhost"
	"github.com/kmodquery/kmodquery/test/standin"
)

// reportLines collects the lines that a process reports.
type reportLines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (r *reportLines) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(b)
}

func (r *reportLines) lines() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Split(strings.TrimSpace(r.text.String()), "\n")
}

// serveMac serves osquery as on a Mac whose eslogger follows the play.
func serveMac(t *testing.T, play string) (host *osqueryhost.Host, eslogger string, report *reportLines) {
	t.Helper()
	host = startHost(t)
	eslogger = installOnMac(t)
	standin.Direct(t, eslogger, play)
	c, err := parse(aMac(filepath.Dir(eslogger)), []string{
		"--socket", host.Socket(), "--interval", "1", "--state-dir", t.TempDir(), "--sources", kmodquery.SourceEndpointSecurity,
	})
	require.NoError(t, err)
	report = &reportLines{}
	stop, ended := inBackground(t, func(ctx context.Context) error { return serve(ctx, c, log.New(report, "", 0)) })
	t.Cleanup(func() {
		stop()
		require.NoError(t, <-ended)
	})
	require.NoError(t, host.WaitForTable(t.Context(), "kernel_module_sensors"))
	return host, eslogger, report
}

// installOnMac installs eslogger and kmutil, which lists one extension.
func installOnMac(t *testing.T) (eslogger string) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("KMODQUERY_STANDINS", dir)
	require.NoError(t, installScript(filepath.Join(dir, "kmutil")))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "showloaded"), []byte(aKextOfTheBoot), 0o600))
	return standin.Install(t, dir, "eslogger")
}

// await repeats a query until its result is the wanted row.
func await(t *testing.T, host *osqueryhost.Host, sql string, want map[string]string) {
	t.Helper()
	var got []map[string]string
	for began := time.Now(); time.Since(began) < 30*time.Second; time.Sleep(20 * time.Millisecond) {
		var err error
		got, err = host.Query(t.Context(), sql)
		require.NoError(t, err)
		if len(got) == 1 && equal(got[0], want) {
			return
		}
	}
	require.Equal(t, []map[string]string{want}, got)
}

func equal(a, b map[string]string) bool {
	for key, value := range b {
		if a[key] != value {
			return false
		}
	}
	return len(a) == len(b)
}

// eslogger is killed in the middle of a record, and then again. No event is lost or
// stored twice.
func TestAKilledEsloggerIsStartedAgain(t *testing.T) {
	record := func(name string, number int) string {
		return "print " + standin.EsloggerRecord(name, number) + "\n"
	}
	host, eslogger, report := serveMac(t, record("com.a", 0)+`begin {"event":{"kextload":{"ident`+"\ndie\n---\ndie\n---\n"+record("com.b", 0)+record("com.c", 1))
	await(t, host, `SELECT group_concat(name, ' ') AS names FROM (SELECT name FROM kernel_module_events WHERE source = 'endpoint_security' ORDER BY eid)`,
		map[string]string{"names": "com.a com.b com.c"})
	await(t, host, `SELECT state, received, lost, decode_errors, reason LIKE 'failed at %: eslogger exited unexpectedly: signal: killed' AS has_cause FROM kernel_module_sensors WHERE source = 'endpoint_security'`,
		map[string]string{"state": "active", "received": "4", "lost": "0", "decode_errors": "1", "has_cause": "1"})
	require.Equal(t, 3, standin.Runs(eslogger))
	require.Equal(t, []string{"endpoint_security: eslogger exited unexpectedly: signal: killed"}, report.lines(), "each failure is reported once")
	await(t, host, `SELECT count(*) AS findings FROM kernel_module_findings WHERE source = 'endpoint_security'`, map[string]string{"findings": "3"})
}

// Full Disk Access is usually granted after the installation.
func TestTheSourceStartsWhenFullDiskAccessIsGranted(t *testing.T) {
	host, eslogger, report := serveMac(t, "say anything (ES_NEW_CLIENT_RESULT_ERR_NOT_PERMITTED)\nexit 1\n")
	await(t, host, `SELECT state, reason LIKE '%give Full Disk Access to the responsible process%' AS has_advice FROM kernel_module_sensors WHERE source = 'endpoint_security'`,
		map[string]string{"state": "failed", "has_advice": "1"})
	standin.Direct(t, eslogger, "print "+standin.EsloggerRecord("com.a", 0)+"\n")
	await(t, host, `SELECT name FROM kernel_module_events WHERE source = 'endpoint_security'`, map[string]string{"name": "com.a"})
	await(t, host, `SELECT state FROM kernel_module_sensors WHERE source = 'endpoint_security'`, map[string]string{"state": "active"})
	require.Len(t, report.lines(), 1)
}

// A reader beside the recorder is like osqueryi beside osqueryd.
func TestAReaderOnMacOSStartsNoEslogger(t *testing.T) {
	t.Setenv("KMODQUERY_RETENTION_AGE", "0")
	eslogger := installOnMac(t)
	standin.Direct(t, eslogger, "print "+standin.EsloggerRecord("com.a", 0)+"\n")
	mac, state := aMac(filepath.Dir(eslogger)), t.TempDir()
	c, err := parse(mac, []string{"query", "--state-dir", state, "--sources", kmodquery.SourceEndpointSecurity})
	require.NoError(t, err)
	recorder, err := open(t.Context(), c, log.New(os.Stderr, "", 0))
	require.NoError(t, err)
	defer recorder.Close()
	var stdout, stderr strings.Builder
	arguments := []string{"query", "--state-dir", state, "--format", "csv", "--sources", kmodquery.SourceEndpointSecurity}
	require.Zero(t, run(t.Context(), mac, append(arguments, "SELECT name FROM kernel_module_events WHERE source = 'endpoint_security'"), input(t, ""), &stdout, &stderr))
	require.Zero(t, run(t.Context(), mac, append(arguments, "SELECT role, state FROM kernel_module_sensors WHERE source = 'endpoint_security'"), input(t, ""), &stdout, &stderr))
	require.Equal(t, "name\ncom.a\nrole,state\nreader,active\n", stdout.String())
	require.Empty(t, stderr.String())
	require.Equal(t, 1, standin.Runs(eslogger), "only the recorder starts eslogger")
}

//go:build linux

package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery/test/osqueryhost"
	"github.com/kmodquery/kmodquery/test/suite"
	"github.com/kmodquery/kmodquery/test/vm"
	"github.com/kmodquery/kmodquery/test/vm/guest"
)

const (
	// pinnedEnv is set in the VMs that TestPinned boots. It permits the extension to
	// pin (TestMain).
	pinnedEnv = "KMODQUERY_PINNED"
	// otherExtension is a build with another pin version.
	otherExtension = "/usr/lib/kmodquery/other/kmodquery.ext"
	// otherBuild sets that version at link time.
	otherBuild = "-X github.com/kmodquery/kmodquery/bpf.build=other"

	pinFolder = "/sys/fs/bpf/kmodquery"

	// busyLimit is the limit of a wait for a recorder that shares a busy processor with
	// a storm.
	busyLimit = 5 * time.Minute
)

// Tests of programs that stay pinned without a recorder, without the prefix TestGuest.
var (
	pinnedTests = []string{
		"DetachLeavesNothingInTheKernel", "KillsLoseNoEvent", "RecordsWhileHooksAreAttachedAgain",
		"ReportsEachLoadDuringTheStart", "ReturnAfterARestartIsNoSecondCall", "UpgradeLosesNothing", "UpgradeSendsEachCallOnce",
	}
	// newestPinnedTests run in make test-all on the newest kernel only. make test has its own
	// choice.
	newestPinnedTests = []string{"ReaderTakesOverInAStorm", "RequestsLeaveRoomForLoads", "WatchesWhileTheDiskIsFull"}
	// longPinnedTests run in make test-long only.
	longPinnedTests = []string{
		"EventTimesFollowClockSteps", "FullDiskLosesNothing", "LoadsWithoutARecorderKeepTheirImages",
	}
	// oldestPinnedTests run in make test-all on the oldest kernel only.
	oldestPinnedTests = []string{"CountsDeniedCallsWithoutARecorder"}
)

func pinnedPattern(kernel vm.Kernel) string {
	isOldest := kernel.String() == vm.Oldest().String()
	switch {
	case suite.Long():
		return guestPattern(slices.Concat(pinnedTests, oldestPinnedTests, newestPinnedTests, longPinnedTests)...)
	case suite.All() && isOldest:
		return guestPattern(slices.Concat(pinnedTests, oldestPinnedTests)...)
	case suite.All():
		return guestPattern(slices.Concat(pinnedTests, newestPinnedTests)...)
	case isOldest:
		// CountsDeniedCallsWithoutARecorder includes an upgrade. One during a storm needs two
		// processors: kretprobes follow as many calls at once as there are processors, and the
		// storm loads inside a load.
		return guestPattern("CountsDeniedCallsWithoutARecorder", "DetachLeavesNothingInTheKernel")
	}
	return guestPattern("KillsLoseNoEvent", "WatchesWhileTheDiskIsFull")
}

// TestPinned boots the oldest and the newest kernel, which pin in different ways, for
// recorders that end, are killed and replaced while modules are loaded and unloaded.
func TestPinned(t *testing.T) {
	t.Parallel()
	for _, kernel := range kernels("5.10", vm.Newest().String()) {
		t.Run(kernel.String(), func(t *testing.T) {
			t.Parallel()
			env := []string{pinnedEnv + "=1", "SEED=" + os.Getenv("SEED"), "ROUNDS=" + os.Getenv("ROUNDS")}
			steps := []vm.Step{{Name: "recorders", Pattern: pinnedPattern(kernel), Env: env}}
			if suite.Long() || suite.All() && kernel.String() == vm.Oldest().String() {
				// It makes the kernel refuse unsigned modules, so it runs last.
				steps = append(steps, vm.Step{Name: "restarts", Pattern: guestPattern("RestartsAddNothing"), Env: env})
			}
			if narrowed := os.Getenv("GUEST"); narrowed != "" {
				steps = []vm.Step{{Name: "narrowed", Pattern: narrowed, Env: env}}
			}
			vm.TestSteps(t, kernel, steps, vm.Options{
				Modules: []string{"tcp_nv", "tcp_illinois"},
				Files: map[string]string{
					guestExtension: buildExtension(t, kernel.Arch),
					otherExtension: buildExtension(t, kernel.Arch, "-ldflags", otherBuild),
				},
				// Unloading waits for RCU grace periods, which must be short for a
				// storm.
				Cmdline: []string{"rcupdate.rcu_expedited=1"},
				CPUs:    pinnedCPUs(),
				Timeout: pinnedTimeout(),
			})
		})
	}
}

// needPinned skips a test outside the VMs that TestPinned boots.
func needPinned(t *testing.T) {
	t.Helper()
	guest.Only(t)
	if os.Getenv(pinnedEnv) == "" {
		t.Skip("runs in the VMs that TestPinned boots: the other tests of a VM have a recorder of their own")
	}
}

// seeded returns a random source and logs its seed.
func seeded(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("SEED"); text != "" {
		seed = uint64(integer(t, text))
	}
	t.Logf("SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// rounds returns how often a test repeats its work in make test, make test-all and make
// test-long. The environment variable ROUNDS overrides it.
func rounds(t *testing.T, few, more, many int) int {
	t.Helper()
	if set := os.Getenv("ROUNDS"); set != "" {
		return int(integer(t, set))
	}
	switch {
	case suite.Long():
		return many
	case suite.All():
		return more
	}
	return few
}

// A deployment is a state folder and an osquery for successive recorders.
type deployment struct {
	dir, state string
	host       *osqueryhost.Host
	log        *os.File // the output of the recorders
}

// newDeployment creates a deployment. When the test ends, its pinned objects are
// removed.
func newDeployment(t *testing.T) *deployment {
	t.Helper()
	dir, err := os.MkdirTemp("/run", "post")
	require.NoError(t, err)
	p := &deployment{dir: dir, state: filepath.Join(dir, "state")}
	p.log, err = os.Create(filepath.Join(dir, "log"))
	require.NoError(t, err)
	p.host, err = osqueryhost.Start(t.Context(), osqueryhost.Options{Dir: dir})
	require.NoError(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the recorders' output:\n%s", p.output())
			files, _ := exec.Command("ls", "-la", p.state, pinFolder).CombinedOutput()
			sensors, err := p.tryQuery("SELECT * FROM kernel_module_sensors WHERE source = 'ebpf'")
			t.Logf("%s\n%v %v", files, sensors, err)
		}
		require.NoError(t, p.host.Close())
		require.NoError(t, p.log.Close())
		p.detach(t)
	})
	return p
}

// detach removes the pinned objects.
func (p *deployment) detach(t *testing.T) {
	t.Helper()
	out, err := exec.Command(guestExtension, "detach", "--state-dir", p.state).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// output returns the end of the recorders' output, without repeated lines.
func (p *deployment) output() string {
	text, err := os.ReadFile(p.log.Name())
	if err != nil {
		return err.Error()
	}
	counts, lines := map[string]int{}, []string(nil)
	for line := range strings.Lines(string(text)) {
		if counts[line]++; counts[line] == 1 {
			lines = append(lines, line)
		}
	}
	lines = lines[max(0, len(lines)-400):]
	for i, line := range lines {
		lines[i] = fmt.Sprintf("%4d × %s", counts[line], line)
	}
	return strings.Join(lines, "")
}

// A recorderProcess is one process of the extension in a deployment.
type recorderProcess struct {
	cmd   *exec.Cmd
	began time.Time
	ended chan struct{} // closed when it has ended
	err   error         // its exit error, valid after that
}

// startRecorder starts an extension. If another one is already recording, it is a
// reader.
func (p *deployment) startRecorder(t *testing.T, extension string, flags ...string) *recorderProcess {
	t.Helper()
	flags = append([]string{
		"--socket", p.host.Socket(), "--interval", "1", "--timeout", "30", "--state-dir", p.state, "--query-timeout", "5m",
	}, flags...)
	r := &recorderProcess{cmd: exec.Command(extension, flags...), ended: make(chan struct{})}
	r.cmd.Stdout, r.cmd.Stderr = p.log, p.log
	r.began = time.Now()
	require.NoError(t, r.cmd.Start())
	go func() {
		r.err = r.cmd.Wait()
		close(r.ended)
	}()
	t.Cleanup(func() {
		r.cmd.Process.Kill()
		<-r.ended
	})
	return r
}

// awaitActive waits until the eBPF source of a recorder is active.
func (p *deployment) awaitActive(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool {
		rows, err := p.host.Query(t.Context(), "SELECT reason FROM kernel_module_sensors WHERE source = 'ebpf' AND state = 'active' AND role = 'recorder'")
		if err != nil || len(rows) != 1 {
			return false
		}
		t.Logf("ebpf is active: %q", rows[0]["reason"])
		return true
	}, waitForTables, 100*time.Millisecond)
}

// kill kills the recorder and waits for its end.
func (r *recorderProcess) kill(t *testing.T) {
	t.Helper()
	require.NoError(t, r.cmd.Process.Kill())
	<-r.ended
	require.ErrorContains(t, r.err, "signal: killed", "it was not killed")
}

// terminate ends the recorder with SIGTERM.
func (r *recorderProcess) terminate(t *testing.T) {
	t.Helper()
	require.NoError(t, r.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case <-r.ended:
		// A process that has just started does not handle signals yet.
		if r.err != nil {
			require.ErrorContains(t, r.err, "signal: terminated")
		}
	case <-time.After(busyLimit):
		require.NoError(t, r.cmd.Process.Signal(syscall.SIGQUIT)) // its stacks show the reason
		<-r.ended
		t.Fatal("the recorder ignored SIGTERM")
	}
}

// awaitAppend waits until the recorder has stored something, and returns the time since
// its start.
func (r *recorderProcess) awaitAppend(t *testing.T, p *deployment) time.Duration {
	t.Helper()
	wal := filepath.Join(p.state, "events.db-wal")
	for {
		info, err := os.Stat(wal)
		if err == nil && info.Size() > 0 && info.ModTime().After(r.began) {
			return time.Since(r.began)
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
			require.NoError(t, err)
		}
		select {
		case <-r.ended:
			t.Fatalf("the recorder has ended: %v", r.err)
		case <-time.After(time.Millisecond):
		}
		require.Less(t, time.Since(r.began), busyLimit, "the recorder stores nothing")
	}
}

// query runs SQL in a process of its own, which records if no other does.
func (p *deployment) query(t *testing.T, sql string, args ...any) []map[string]string {
	t.Helper()
	rows, err := p.tryQuery(sql, args...)
	require.NoError(t, err)
	return rows
}

func (p *deployment) tryQuery(sql string, args ...any) ([]map[string]string, error) {
	results, err := p.tryQueries(fmt.Sprintf(sql, args...))
	if err != nil {
		return nil, err
	}
	return results[0], nil
}

// tryQueries runs statements in one process, and returns the rows of each.
func (p *deployment) tryQueries(statements ...string) ([][]map[string]string, error) {
	cmd := exec.Command(guestExtension, "query", "--state-dir", p.state, "--query-timeout", "5m", "--format", "json")
	cmd.Stdin = strings.NewReader(strings.Join(statements, ";\n") + ";\n")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, stderr.Bytes())
	}
	results := make([][]map[string]string, len(statements))
	if len(statements) == 1 { // its result is the document
		out = slices.Concat([]byte("["), out, []byte("]"))
	}
	var documents [][]map[string]any
	if err := json.Unmarshal(out, &documents); err != nil {
		return nil, fmt.Errorf("read the results of %q: %w", statements, err)
	}
	if len(documents) != len(statements) {
		return nil, fmt.Errorf("read %d results of %q", len(documents), statements)
	}
	for i, cells := range documents {
		for _, row := range cells {
			results[i] = append(results[i], texts(row))
		}
	}
	return results, nil
}

// texts returns the values of a row without those that are NULL.
func texts(row map[string]any) map[string]string {
	all := map[string]string{}
	for column, value := range row {
		switch value := value.(type) {
		case nil:
		case float64:
			all[column] = strconv.FormatFloat(value, 'f', -1, 64)
		default:
			all[column] = fmt.Sprint(value)
		}
	}
	return all
}

// stored returns the tally of the stored events. A call that was stored before it
// returned counts with its return value, which has a row of its own. The errors of
// events before the call are ignored, because they are uncertain.
func (p *deployment) stored(t *testing.T) tally {
	t.Helper()
	counts := tally{}
	for _, row := range p.query(t, `SELECT name, event_name, CASE WHEN event_name NOT LIKE 'security%%' THEN error END AS error, count(*) AS n
		FROM kernel_module_events
		WHERE source = 'ebpf' AND event_name != 'module_request' AND NOT (event_name = 'init_module' AND result IS NULL)
		GROUP BY 1, 2, 3`) {
		event := row["event_name"]
		if event == "sys_exit_init_module" {
			event = "init_module"
		}
		counts[strings.TrimSpace(row["name"]+" "+event+" "+row["error"])] += int(integer(t, row["n"]))
	}
	return counts
}

// requireExactly requires every event of a storm to be stored once, nothing else to be
// stored, and nothing to be lost.
func (p *deployment) requireExactly(t *testing.T, done tally) {
	t.Helper()
	// A query of another process waits for a source that starts only as long as the recorder answers.
	require.Eventually(t, func() bool {
		return len(p.query(t, "SELECT source FROM kernel_module_sensors WHERE source = 'ebpf' AND state = 'active'")) == 1
	}, busyLimit, time.Second, "ebpf does not start")
	stored := p.stored(t)
	if differences := done.byEvent().differences(stored.byEvent()); len(differences) > 0 {
		t.Errorf("events are not stored, or twice:\n%s", strings.Join(differences, "\n"))
	}
	if differences := done.named().differences(stored.named()); len(differences) > 0 {
		t.Errorf("the stored events differ from the storm's:\n%s", strings.Join(differences, "\n"))
	}
	const ebpf = "SELECT %s FROM kernel_module_events WHERE source = 'ebpf' AND "
	checks := map[string]string{
		"an event is stored twice":    fmt.Sprintf(ebpf, "load_id, event_name, name, count(*) AS n, min(eid) AS first, max(eid) AS last") + "load_id != '' GROUP BY load_id, event_name HAVING n > 1 LIMIT 5",
		"an event has no attempt":     fmt.Sprintf(ebpf, "eid, event_name, name") + "coalesce(load_id, '') = '' AND event_name != 'module_request' LIMIT 5",
		"an eid is there twice":       "SELECT eid, count(*) AS n FROM kernel_module_events GROUP BY eid HAVING n > 1 LIMIT 5",
		"a return has no call":        fmt.Sprintf(ebpf, "load_id, name") + "event_name = 'sys_exit_init_module' AND load_id NOT IN (SELECT load_id FROM kernel_module_events WHERE event_name = 'init_module') LIMIT 5",
		"a call has no return":        fmt.Sprintf(ebpf, "load_id, name") + "event_name = 'init_module' AND result IS NULL AND load_id NOT IN (SELECT load_id FROM kernel_module_events WHERE event_name = 'sys_exit_init_module') LIMIT 5",
		"a process column is missing": fmt.Sprintf(ebpf, "eid, event_name, name, missing") + "instr(missing, 'cmdline') > 0 LIMIT 5",
		// Other sources stand in while a slow machine attaches the hooks. The kernel may overwrite their records.
		"eBPF has lost something":       "SELECT source, lost, filtered, decode_errors, store_errors, reason FROM kernel_module_sensors WHERE source = 'ebpf' AND (lost > 0 OR filtered > 0 OR decode_errors > 0)",
		"nobody tampers with a sensor":  "SELECT reason FROM kernel_module_events WHERE event_name = 'sensor_tampered' LIMIT 5",
		"the views report other events": "SELECT event_name, name, reason FROM kernel_module_events WHERE source = 'procfs' AND (event_name != 'module_present' OR name IN ('tcp_nv', 'tcp_illinois', 'dummy', 'kmodquery_nested')) LIMIT 5",
	}
	problems := slices.Sorted(maps.Keys(checks))
	var statements []string
	for _, problem := range problems {
		statements = append(statements, checks[problem])
	}
	results, err := p.tryQueries(statements...)
	require.NoError(t, err)
	for i, rows := range results {
		if len(rows) > 0 {
			t.Errorf("%s: %v", problems[i], rows)
		}
	}
	if t.Failed() {
		p.explain(t)
		t.FailNow()
	}
	loads := 0
	for key, n := range done {
		if strings.HasSuffix(key, " module_load") {
			loads += n
		}
	}
	total := 0
	for _, n := range done {
		total += n
	}
	// If a process was killed while it read the image of a load, the hash may be lost,
	// and for a failed load also the name, which only the image has.
	without := p.query(t, "SELECT count(DISTINCT nullif(load_id, '')) AS n FROM kernel_module_events WHERE source = 'ebpf' AND instr(missing, 'sha256') > 0")
	t.Logf("%d loads, %d events: each once; %s attempts without an image", loads, total, without[0]["n"])
}

// explain logs how many attempts have which events.
func (p *deployment) explain(t *testing.T) {
	t.Helper()
	kinds := map[string]int{}
	example := map[string]string{}
	for _, row := range p.query(t, `SELECT load_id, min(time_nanos) AS at, min(nullif(name, '')) AS name, group_concat(event_name || coalesce(' ' || nullif(error, ''), '')) AS events
		FROM (SELECT * FROM kernel_module_events WHERE source = 'ebpf' AND load_id != '' ORDER BY event_name, eid) GROUP BY load_id`) {
		kind := row["name"] + ": " + row["events"]
		kinds[kind]++
		example[kind] = row["load_id"]
	}
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		t.Logf("%6d × %s, such as %s", kinds[kind], kind, example[kind])
	}
}

// pinnedSets returns the names of the pinned sets.
func pinnedSets(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir(pinFolder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	require.NoError(t, err)
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

// pinnedCPUs returns two in the larger suites, so that the recorder's threads and those
// of a storm run at the same time.
func pinnedCPUs() int {
	if isSmall() {
		return 1
	}
	return 2
}

// pinnedTimeout returns the time limit of a VM.
func pinnedTimeout() time.Duration {
	if suite.Long() || os.Getenv("ROUNDS") != "" {
		return 4 * time.Hour
	}
	return 35 * time.Minute
}

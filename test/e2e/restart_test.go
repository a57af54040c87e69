//go:build linux

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery/test/kmod"
	"github.com/kmodquery/kmodquery/test/suite"
	"github.com/kmodquery/kmodquery/test/vm/guest"
)

// TestGuestRestartsAddNothing restarts the recorder after loads that the kernel refused and
// logged. Some of the kernel's lines name neither the module nor the process. It then
// makes the kernel refuse unsigned modules, for the rest of the guest's life.
func TestGuestRestartsAddNothing(t *testing.T) {
	needPinned(t)
	for _, mode := range []string{"any module", "signed modules"} {
		refused := map[string]func() error{
			"no module":         func() error { return guest.LoadImage(image(t, "tcp_nv")[:1000], "") },
			"another kernel's":  func() error { return insmod(corrupted(t, "tcp_nv")) },
			"a wrong parameter": func() error { return guest.LoadImage(image(t, "tcp_nv"), "nv_pad=many") },
		}
		if mode == "signed modules" {
			require.NoError(t, os.WriteFile("/sys/module/module/parameters/sig_enforce", []byte("1"), 0o600))
			refused["an unsigned file"] = func() error { return exec.Command("insmod", unsigned(t, "tcp_nv")).Run() }
			refused["an unsigned image"] = func() error {
				stripped, err := kmod.Strip(image(t, "tcp_illinois"))
				require.NoError(t, err)
				return guest.LoadImage(stripped, "")
			}
		}
		for _, hooks := range []struct {
			name     string
			flags    []string
			restarts int
		}{
			{"pinned hooks", nil, suite.Repeat(15)},
			{"hooks of its own", []string{"--pin-dir", "none"}, suite.Repeat(10)}, // each attaches them anew
		} {
			if hooks.flags != nil && mode == "any module" {
				continue // no line lacks the name
			}
			t.Run(mode+", "+hooks.name, func(t *testing.T) {
				p := newDeployment(t)
				recorder := p.startRecorder(t, guestExtension, hooks.flags...)
				p.awaitLogRead(t)
				for about, load := range refused {
					require.Error(t, load(), about)
				}
				of := func(table string) []string {
					rows, err := p.host.Query(t.Context(), "SELECT concat_ws(' ', eid, source, load_id, name, pid) AS text FROM "+table+" ORDER BY eid")
					require.NoError(t, err)
					return column(rows, "text")
				}
				before := p.count(t, "kernel_module_findings", "source = 'ebpf' AND signature_id = 'TRC-1017'")
				require.Equal(t, len(refused), before, "%q", of("kernel_module_findings"))
				events, findings := of("kernel_module_events"), of("kernel_module_findings")
				for round := range hooks.restarts {
					if round%2 == 0 {
						recorder.terminate(t)
					} else {
						recorder.kill(t)
					}
					recorder = p.startRecorder(t, guestExtension, hooks.flags...)
					p.awaitLogRead(t)
				}
				require.Equal(t, events, of("kernel_module_events"))
				require.Equal(t, findings, of("kernel_module_findings"))
				recorder.terminate(t)
			})
		}
	}
}

// awaitLogRead waits until eBPF and the views watch and the kernel's log was read for the
// time in which nothing watched.
func (p *deployment) awaitLogRead(t *testing.T) {
	t.Helper()
	p.awaitActive(t)
	require.Eventually(t, func() bool {
		rows, err := p.host.Query(t.Context(), "SELECT source FROM kernel_module_sensors WHERE state = 'active' ORDER BY source")
		_, unread := os.Stat(filepath.Join(p.state, "gap"))
		return err == nil && os.IsNotExist(unread) && fmt.Sprint(column(rows, "source")) == "[ebpf procfs]"
	}, time.Minute, 100*time.Millisecond)
}

func (p *deployment) count(t *testing.T, table, where string) int {
	t.Helper()
	rows, err := p.host.Query(t.Context(), "SELECT count(*) AS n FROM "+table+" WHERE "+where)
	require.NoError(t, err)
	return int(integer(t, rows[0]["n"]))
}

// TestGuestReportsEachLoadDuringTheStart loads modules from before the recorder starts until
// all its hooks are attached. Whichever hooks and sources observe a load, it is one
// finding. Of loads before the start only those that the kernel logged are findings.
func TestGuestReportsEachLoadDuringTheStart(t *testing.T) {
	needPinned(t)
	p := newDeployment(t)
	type load struct {
		name  string
		began time.Time
	}
	var loads []load
	next := func() {
		name := fmt.Sprintf("kmodquery_start_%d", len(loads))
		image, err := kmod.BuildAs(kmod.Unformed, name, nil)
		require.NoError(t, err)
		path := filepath.Join(t.TempDir(), "start.ko")
		require.NoError(t, os.WriteFile(path, image, 0o600))
		loads = append(loads, load{name, time.Now()})
		if len(loads)%2 == 0 {
			require.NoError(t, guest.LoadImage(image, ""))
		} else {
			require.NoError(t, insmod(path))
		}
		t.Cleanup(func() { require.NoError(t, guest.Unload(name)) })
	}
	for range 3 {
		next()
	}
	p.startRecorder(t, guestExtension)
	isActive := func() bool {
		rows, err := p.host.Query(t.Context(), "SELECT source FROM kernel_module_sensors WHERE source = 'ebpf' AND state = 'active'")
		return err == nil && len(rows) == 1
	}
	for deadline := time.Now().Add(waitForTables); !isActive(); {
		next()
		require.True(t, time.Now().Before(deadline), "the hooks are not attached")
	}
	next()
	p.awaitLogRead(t)

	// The recorder notes which modules are there just after it has created its socket.
	socket, err := os.Lstat(filepath.Join(p.state, "recorder.sock"))
	require.NoError(t, err)
	rows, err := p.host.Query(t.Context(), "SELECT name, count(*) AS n, group_concat(source || ' ' || \"trigger\") AS text FROM kernel_module_findings WHERE signature_id = 'TRC-1017' GROUP BY name")
	require.NoError(t, err)
	found, about := map[string]string{}, map[string]string{}
	for _, row := range rows {
		found[row["name"]], about[row["name"]] = row["n"], row["text"]
	}
	after := 0
	for i, load := range loads {
		t.Logf("%s at %v: %s", load.name, load.began.Sub(socket.ModTime()), about[load.name])
		switch {
		case i < 3: // the kernel logs that the first unsigned module taints it
			require.Contains(t, []string{"", "kmsg module_load"}, about[load.name], load.name)
		case load.began.Before(socket.ModTime()):
			require.Contains(t, []string{"", "1"}, found[load.name], load.name)
		default:
			if after++; after > 2 {
				require.Equal(t, "1", found[load.name], load.name)
			}
		}
	}
	require.Greater(t, after, 3, "no load was made while the hooks were attached")

	// What a row of a load lacks is named, and all rows of a name are one load.
	rows, err = p.host.Query(t.Context(), "SELECT * FROM kernel_module_events WHERE source = 'ebpf' AND event_name NOT IN ('module_request', 'module_free', 'delete_module')")
	require.NoError(t, err)
	ids := map[string]string{}
	for _, row := range rows {
		missing := strings.Split(row["missing"], ",")
		require.True(t, row["name"] != "" || slices.Contains(missing, "name"), "%v", row)
		require.True(t, row["path"] != "" || row["origin"] == "memory" || slices.Contains(missing, "path"), "%v", row)
		isCall := slices.Contains([]string{"init_module", "finit_module"}, row["event_name"])
		require.True(t, !isCall || row["result"] != "" || slices.Contains(missing, "result"), "%v", row)
		if row["name"] != "" {
			require.Contains(t, []string{"", row["load_id"]}, ids[row["name"]], row["name"])
			ids[row["name"]] = row["load_id"]
		}
	}
}

//go:build linux

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery/test/vm/guest"
)

// waitForTables is how long the extension may take to load its programs and register in
// an emulator.
const waitForTables = 2 * time.Minute

// TestGuestEveryColumnOfEveryWayToLoad loads and unloads a real module in every way and
// compares whole rows.
func TestGuestEveryColumnOfEveryWayToLoad(t *testing.T) {
	guest.Only(t)
	for _, a := range attempts {
		t.Run(a.name, func(t *testing.T) {
			// The process columns must be those of one thread.
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			handed := a.prepare(t, "dummy")
			want := merge(t, process(t), imageInfo(t, handed.bytes, image(t, "dummy"), "valid"), describe(handed))
			want["type"], want["origin"], want["unprivileged"] = "kernel-module", a.origin, "0"
			want["name"], want["taints"], want["params"] = "dummy", "0", "numdummies=2"
			want["first_seen"], want["count"] = firstSeen(t, "dummy", handed.bytes), "1"
			before, began := latest(t), time.Now()

			require.NoError(t, handed.load("numdummies=2"))
			defer guest.Unload("dummy") // it is already unloaded if the test passes
			rows := eventsSince(t, before)
			require.Equal(t, a.events, column(rows, "event_name"))
			want["load_id"] = rows[0]["load_id"]
			require.Regexp(t, "^[0-9a-f]{16}$", want["load_id"])
			for i, row := range rows {
				checkTime(t, row, began)
				require.InDelta(t, integer(t, row["time"]), integer(t, row["stored_time"]), 30)
				want := with(want, "event_name", a.events[i])
				want["reports_load"] = "0"
				if a.events[i] == "security_kernel_read_file" || a.events[i] == "init_module" {
					want["reports_load"] = "1"
				}
				if i == len(rows)-1 {
					want["result"] = "0"
				}
				// It depends on what other tests have loaded; TestGuestHashesEveryImage knows.
				if want["changed"] = row["changed"]; row["changed"] == "" {
					delete(want, "changed")
				}
				requireRow(t, want, withoutTime(row), a.events[i])
			}
			found := findings(t, before)
			require.Len(t, found, 1)
			requireWholeEvent(t, rows, found[0])

			before, began = latest(t), time.Now()
			require.NoError(t, guest.Unload("dummy"))
			rows = eventsSince(t, before)
			require.Equal(t, []string{"module_free", "delete_module"}, column(rows, "event_name"))
			require.NotEqual(t, want["load_id"], rows[0]["load_id"])
			want = with(process(t), "type", "kernel-module")
			want["name"], want["taints"], want["count"], want["unprivileged"] = "dummy", "0", "1", "0"
			want["load_id"] = rows[0]["load_id"]
			checkTime(t, rows[1], began)
			requireRow(t, with(want, "event_name", "module_free"), withoutTime(rows[0]))
			want = with(want, "event_name", "delete_module")
			want["flags"], want["result"] = strconv.Itoa(unix.O_NONBLOCK), "0"
			requireRow(t, want, withoutTime(rows[1]))
			require.Empty(t, findings(t, before))
		})
	}
}

// requireWholeEvent requires a finding's event to have every column of the row that it
// was made of.
func requireWholeEvent(t *testing.T, rows []map[string]string, finding map[string]string) {
	t.Helper()
	at := slices.IndexFunc(rows, func(row map[string]string) bool { return row["eid"] == finding["eid"] })
	require.GreaterOrEqual(t, at, 0)
	decoder := json.NewDecoder(strings.NewReader(finding["event"]))
	decoder.UseNumber() // some have more than 53 bits
	var event map[string]any
	require.NoError(t, decoder.Decode(&event), "%s", finding["event"])
	got := map[string]string{}
	for name, value := range event {
		if value != "" { // a row shows an empty text like NULL
			got[name] = fmt.Sprint(value)
		}
	}
	got["unprivileged"] = "0" // computed from the others
	require.Equal(t, rows[at], got)
}

// TestGuestReportsFailedLoads makes attempts that the kernel refuses, each at another
// stage, and checks their events and findings.
func TestGuestReportsFailedLoads(t *testing.T) {
	guest.Only(t)
	dummy, nbd := image(t, "dummy"), image(t, "nbd")
	text := []byte(strings.Repeat("no module ", 100))
	// Bytes that are not a module have no values, and missing names the columns.
	noModule := "vermagic,license,intree,version,srcversion"
	tests := []struct {
		name     string
		load     func(t *testing.T) error
		errno    syscall.Errno
		events   []string
		handed   []byte // hashed, signed or not
		missing  string
		findings int
	}{
		{"a truncated image", func(*testing.T) error { return guest.LoadImage(dummy[:100], "") },
			unix.ENOEXEC, []string{"security_kernel_load_data", "init_module"}, dummy[:100], noModule, 1},
		{"a file without a module", func(t *testing.T) error {
			path := filepath.Join(t.TempDir(), "text.ko")
			require.NoError(t, os.WriteFile(path, text, 0o600))
			return guest.LoadFile(path, "")
		}, unix.ENOEXEC, []string{"security_kernel_read_file", "finit_module"}, text, noModule, 1},
		{"a module that is already loaded", func(*testing.T) error { return guest.LoadImage(dummy, "") },
			unix.EEXIST, []string{"security_kernel_load_data", "init_module"}, dummy, "", 1},
		{"an invalid parameter", func(*testing.T) error { return guest.LoadImage(nbd, "nbds_max=many") },
			unix.EINVAL, []string{"security_kernel_load_data", "init_module"}, nbd, "", 1},
		{"a module whose init fails", func(*testing.T) error { return guest.LoadImage(nbd, "nbds_max=2000000") },
			unix.EINVAL, []string{"security_kernel_load_data", "module_load", "module_free", "init_module"}, nbd, "", 1},
		{"no module to remove", func(*testing.T) error { return guest.Unload("nosuch") },
			unix.ENOENT, []string{"delete_module"}, nil, "", 0},
		{"no file", func(*testing.T) error { return unix.FinitModule(-1, "", 0) },
			unix.EBADF, []string{"finit_module"}, nil, "", 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if test.errno == unix.EEXIST {
				require.NoError(t, guest.LoadImage(dummy, ""))
				defer guest.Unload("dummy")
			}
			before := latest(t)
			err := test.load(t)
			require.ErrorIs(t, err, test.errno)
			rows := eventsSince(t, before)
			require.Equal(t, test.events, column(rows, "event_name"))
			last := rows[len(rows)-1]
			require.Equal(t, unix.ErrnoName(test.errno), last["error"])
			require.Equal(t, strconv.Itoa(-int(test.errno)), last["result"])
			want := map[string]string{"load_id": last["load_id"], "count": "1"}
			if test.handed != nil {
				status := "valid"
				if test.missing != "" {
					status = "unsigned"
				}
				want = merge(t, want, imageInfo(t, test.handed, test.handed, status))
			}
			if test.handed != nil && test.missing == "" {
				want["name"] = modinfo(t, test.handed)["name"]
			}
			for _, row := range rows {
				require.NotEmpty(t, row["load_id"])
				requireColumns(t, want, row)
				require.ElementsMatch(t, strings.Split(test.missing, ","), strings.Split(row["missing"], ","))
			}
			require.Len(t, findings(t, before), test.findings)
		})
	}
}

// TestGuestReportsDeniedCalls makes a user without CAP_SYS_MODULE call.
func TestGuestReportsDeniedCalls(t *testing.T) {
	guest.Only(t)
	before := latest(t)
	unprivileged(t, func() {
		require.ErrorIs(t, guest.LoadImage([]byte("x"), ""), unix.EPERM)
		require.ErrorIs(t, unix.FinitModule(0, "", 0), unix.EPERM)
	})
	rows := eventsSince(t, before)
	require.Equal(t, []string{"init_module", "finit_module"}, column(rows, "event_name"))
	for _, row := range rows {
		require.Equal(t, "EPERM", row["error"])
		require.Equal(t, "0", row["uid"])
		require.Equal(t, "65534", row["euid"])
		require.Equal(t, "0", row["capabilities"])
		require.Equal(t, "1", row["count"])
	}
	require.Len(t, findings(t, before), 1, "init_module is a finding whatever its result, finit_module is none")
}

// TestGuestReportsReadsThatAreNoModule makes the kernel read a file that is not a
// module.
func TestGuestReportsReadsThatAreNoModule(t *testing.T) {
	guest.Only(t)
	before := latest(t)
	image := openFile(t, guestExtension)
	err := unix.KexecFileLoad(int(image.Fd()), -1, "", unix.KEXEC_FILE_NO_INITRAMFS)
	if errors.Is(err, unix.ENOSYS) {
		t.Skip("this kernel has no kexec_file_load(2)")
	}
	require.ErrorIs(t, err, unix.ENOEXEC)
	rows := eventsSince(t, before)
	require.Equal(t, []string{"security_kernel_read_file"}, column(rows, "event_name"))
	require.Equal(t, "kexec-image", rows[0]["type"])
	require.Equal(t, guestExtension, rows[0]["path"])
	require.Empty(t, rows[0]["load_id"])
	require.Empty(t, findings(t, before))
}

// TestGuestModuleLoadMatchesModinfo compares the columns from struct module with the
// file's .modinfo.
func TestGuestModuleLoadMatchesModinfo(t *testing.T) {
	guest.Only(t)
	image := image(t, "tcp_nv")
	before := latest(t)
	require.NoError(t, guest.LoadImage(image, ""))
	defer guest.Unload("tcp_nv")
	rows := query(t, "SELECT name, version, srcversion FROM kernel_module_events WHERE eid > %d AND event_name = 'module_load'", before)
	require.Equal(t, []map[string]string{{
		"name": "tcp_nv", "version": modinfo(t, image)["version"], "srcversion": modinfo(t, image)["srcversion"],
	}}, rows)
}

// findings returns the TRC-1017 findings after an EID.
func findings(t *testing.T, eid int64) []map[string]string {
	t.Helper()
	return query(t, "SELECT * FROM kernel_module_findings WHERE eid > %d AND signature_id = 'TRC-1017'", eid)
}

// describe returns the columns about the file that the kernel got.
func describe(h *handed) map[string]string {
	row := map[string]string{"size": strconv.Itoa(len(h.bytes))}
	if h.file == nil {
		return row
	}
	row["path"], row["filesystem"] = h.path, h.filesystem
	row["flags"] = strconv.Itoa(h.flags)
	row["device"] = strconv.FormatUint(h.stat.Dev, 10)
	row["inode"] = strconv.FormatUint(h.stat.Ino, 10)
	row["mtime"] = strconv.FormatInt(h.stat.Mtim.Sec, 10)
	row["ctime"] = strconv.FormatInt(h.stat.Ctim.Sec, 10)
	return row
}

// checkTime compares a row's clocks with the guest's.
func checkTime(t *testing.T, row map[string]string, began time.Time) {
	t.Helper()
	at := time.Unix(0, integer(t, row["time_nanos"]))
	// The two clocks are not read at the same moment.
	require.WithinRange(t, at, began.Add(-time.Second), time.Now().Add(time.Second))
	require.Equal(t, at.Unix(), integer(t, row["time"]))
	var info unix.Sysinfo_t
	require.NoError(t, unix.Sysinfo(&info))
	require.InDelta(t, info.Uptime, integer(t, row["uptime"]), 30)
}

func withoutTime(row map[string]string) map[string]string {
	row = with(row, "", "")
	for _, name := range []string{"", "time", "time_nanos", "uptime", "eid", "stored_time"} {
		delete(row, name)
	}
	return row
}

// merge combines rows. They must not share a column.
func merge(t *testing.T, rows ...map[string]string) map[string]string {
	t.Helper()
	merged := map[string]string{}
	for _, row := range rows {
		for name, value := range row {
			require.NotContains(t, merged, name)
			merged[name] = value
		}
	}
	return merged
}

func with(row map[string]string, name, value string) map[string]string {
	copied := map[string]string{name: value}
	for k, v := range row {
		if k != name {
			copied[k] = v
		}
	}
	return copied
}

// unprivileged runs f on a thread whose effective user is nobody. The thread ends with
// f.
func unprivileged(t *testing.T, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocks: the runtime ends the thread
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), 65534, ^uintptr(0)); errno != 0 {
			t.Errorf("become nobody: %v", errno)
			return
		}
		f()
	}()
	<-done
}

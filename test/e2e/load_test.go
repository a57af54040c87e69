//go:build linux

package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery/test/vm/guest"
)

// waitForTables is how long the extension may take in an emulator to load its
// programs and register.
const waitForTables = 2 * time.Minute

// An attempt is a way to hand a module to the kernel.
type attempt struct {
	name string
	// load makes the attempt for the module's image and returns the file that
	// the kernel read, or nil where there was none.
	load func(t *testing.T, image []byte) (*handed, error)
	// events are the names of the events that a successful attempt gives.
	events []string
	origin string
}

// handed is what the kernel was given.
type handed struct {
	path, filesystem string
	stat             unix.Stat_t
}

var byFile = []string{"security_kernel_read_file", "module_load", "finit_module"}

// attempts are the ways that the events tell apart. Modules are loaded
// uncompressed here; loads of Debian's own files go through insmod.
var attempts = []attempt{
	{"a file", func(t *testing.T, image []byte) (*handed, error) {
		path := filepath.Join("/run", "by file.ko")
		require.NoError(t, os.WriteFile(path, image, 0o600))
		return finit(t, openFile(t, path), path, "tmpfs")
	}, byFile, "file"},
	{"a file below a mount", func(t *testing.T, image []byte) (*handed, error) {
		dir := t.TempDir()
		require.NoError(t, unix.Mount("none", dir, "ramfs", 0, ""))
		t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
		require.NoError(t, os.MkdirAll(filepath.Join(dir, "a", "b"), 0o700))
		path := filepath.Join(dir, "a", "b", "x.ko")
		require.NoError(t, os.WriteFile(path, image, 0o600))
		return finit(t, openFile(t, path), path, "ramfs")
	}, byFile, "file"},
	{"a deleted file", func(t *testing.T, image []byte) (*handed, error) {
		path := filepath.Join("/run", "gone.ko")
		require.NoError(t, os.WriteFile(path, image, 0o600))
		file := openFile(t, path)
		require.NoError(t, os.Remove(path))
		return finit(t, file, path, "tmpfs")
	}, byFile, "deleted"},
	{"a memfd", func(t *testing.T, image []byte) (*handed, error) {
		fd, err := unix.MemfdCreate("stealth", unix.MFD_CLOEXEC)
		require.NoError(t, err)
		writer := os.NewFile(uintptr(fd), "memfd")
		t.Cleanup(func() { writer.Close() })
		_, err = writer.Write(image)
		require.NoError(t, err)
		// finit_module wants a file that nobody has open for writing twice.
		return finit(t, openFile(t, "/proc/self/fd/"+strconv.Itoa(fd)), "/memfd:stealth", "tmpfs")
	}, byFile, "memfd"},
	{"memory", func(_ *testing.T, image []byte) (*handed, error) {
		return nil, guest.LoadImage(image, "numdummies=2")
	}, []string{"security_kernel_load_data", "module_load", "init_module"}, "memory"},
}

func openFile(t *testing.T, path string) *os.File {
	t.Helper()
	file, err := os.Open(path)
	require.NoError(t, err)
	t.Cleanup(func() { file.Close() })
	return file
}

func finit(t *testing.T, file *os.File, path, filesystem string) (*handed, error) {
	t.Helper()
	h := &handed{path: path, filesystem: filesystem}
	require.NoError(t, unix.Fstat(int(file.Fd()), &h.stat))
	return h, unix.FinitModule(int(file.Fd()), "numdummies=2", 0)
}

// TestGuestEveryColumn loads and unloads a real module in every way and
// compares whole rows.
func TestGuestEveryColumn(t *testing.T) {
	guest.Only(t)
	image, err := guest.ModuleImage("dummy")
	require.NoError(t, err)
	for _, a := range attempts {
		t.Run(a.name, func(t *testing.T) {
			// What the rows say of the process must hold for one thread.
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			before, began := latest(t), time.Now()

			file, err := a.load(t, image)
			require.NoError(t, err)
			rows := eventsSince(t, before)
			require.Equal(t, a.events, column(rows, "event_name"))

			common := process(t)
			common["type"], common["origin"] = "kernel-module", a.origin
			common["name"], common["taints"], common["params"] = "dummy", "0", "numdummies=2"
			common["size"] = strconv.Itoa(len(image))
			if file != nil {
				describe(common, file)
			}
			common["load_id"] = rows[0]["load_id"]
			require.Regexp(t, "^[0-9a-f]{16}$", common["load_id"])
			for i, row := range rows {
				checkTime(t, row, began)
				want := with(common, "event_name", a.events[i])
				if i == len(rows)-1 {
					want["result"] = "0"
				}
				require.Equal(t, want, withoutTime(row), a.events[i])
			}
			require.Len(t, findings(t, before), 1)

			before, began = latest(t), time.Now()
			require.NoError(t, guest.Unload("dummy"))
			rows = eventsSince(t, before)
			require.Equal(t, []string{"module_free", "delete_module"}, column(rows, "event_name"))
			common = with(process(t), "type", "kernel-module")
			common["name"], common["taints"] = "dummy", "0"
			require.NotEqual(t, common["load_id"], rows[0]["load_id"])
			common["load_id"] = rows[0]["load_id"]
			checkTime(t, rows[1], began)
			require.Equal(t, with(common, "event_name", "module_free"), withoutTime(rows[0]))
			want := with(common, "event_name", "delete_module")
			want["flags"], want["result"] = strconv.Itoa(unix.O_NONBLOCK), "0"
			require.Equal(t, want, withoutTime(rows[1]))
			require.Empty(t, findings(t, before))
		})
	}
}

// TestGuestFailures makes attempts that the kernel refuses, each at another
// depth, and looks at what they leave behind.
func TestGuestFailures(t *testing.T) {
	guest.Only(t)
	image, err := guest.ModuleImage("dummy")
	require.NoError(t, err)
	path, err := guest.ModulePath("dummy")
	require.NoError(t, err)
	nbd, err := guest.ModulePath("nbd")
	require.NoError(t, err)
	tests := []struct {
		name     string
		load     func(t *testing.T) error
		errno    syscall.Errno
		events   []string
		findings int
	}{
		{"a truncated image", func(*testing.T) error { return guest.LoadImage(image[:100], "") },
			unix.ENOEXEC, []string{"security_kernel_load_data", "init_module"}, 1},
		{"a file that is no module", func(t *testing.T) error {
			text := filepath.Join(t.TempDir(), "text.ko")
			require.NoError(t, os.WriteFile(text, []byte(strings.Repeat("no module ", 100)), 0o600))
			return guest.LoadFile(text, "")
		}, unix.ENOEXEC, []string{"security_kernel_read_file", "finit_module"}, 1},
		{"a module that is there already", func(t *testing.T) error {
			return guest.LoadFile(path, "")
		}, unix.EEXIST, []string{"security_kernel_read_file", "finit_module"}, 1},
		{"a module whose init fails", func(*testing.T) error { return guest.LoadFile(nbd, "nbds_max=2000000") },
			unix.EINVAL, []string{"security_kernel_read_file", "module_load", "module_free", "finit_module"}, 1},
		{"no module to remove", func(*testing.T) error { return guest.Unload("nosuch") },
			unix.ENOENT, []string{"delete_module"}, 0},
		{"no file", func(*testing.T) error { return unix.FinitModule(-1, "", 0) },
			unix.EBADF, []string{"finit_module"}, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if test.errno == unix.EEXIST {
				require.NoError(t, guest.LoadFile(path, ""))
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
			for _, row := range rows {
				require.NotEmpty(t, row["load_id"])
				require.Equal(t, last["load_id"], row["load_id"])
				require.Empty(t, row["missing"])
			}
			require.Len(t, findings(t, before), test.findings)
		})
	}
}

// TestGuestDenied has a user without CAP_SYS_MODULE try.
func TestGuestDenied(t *testing.T) {
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
	}
	require.Len(t, findings(t, before), 1, "init_module is a finding whatever its result, finit_module is none")
}

// TestGuestOtherReads has the kernel read a file that is no module.
func TestGuestOtherReads(t *testing.T) {
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

// TestGuestModinfo compares what struct module says with the file's .modinfo.
func TestGuestModinfo(t *testing.T) {
	guest.Only(t)
	image, err := guest.ModuleImage("tcp_nv")
	require.NoError(t, err)
	before := latest(t)
	require.NoError(t, guest.LoadImage(image, ""))
	defer guest.Unload("tcp_nv")
	rows := query(t, "SELECT name, version, srcversion FROM kernel_module_events WHERE eid > %d AND event_name = 'module_load'", before)
	require.Equal(t, []map[string]string{{
		"name": "tcp_nv", "version": modinfo(t, image, "version"), "srcversion": modinfo(t, image, "srcversion"),
	}}, rows)
}

// findings are the TRC-1017 findings after an eid.
func findings(t *testing.T, eid int64) []map[string]string {
	t.Helper()
	return query(t, "SELECT * FROM kernel_module_findings WHERE eid > %d AND signature_id = 'TRC-1017'", eid)
}

// process is what every event of the calling thread says of it.
func process(t *testing.T) map[string]string {
	t.Helper()
	read := func(path string) string {
		content, err := os.ReadFile(path)
		require.NoError(t, err)
		return strings.TrimSpace(string(content))
	}
	tid := strconv.Itoa(unix.Gettid())
	return map[string]string{
		"source": "ebpf", "boot_id": read("/proc/sys/kernel/random/boot_id"),
		"pid": strconv.Itoa(os.Getpid()), "tid": tid, "parent": strconv.Itoa(os.Getppid()),
		"process_name": read("/proc/self/task/" + tid + "/comm"),
		"uid":          "0", "euid": "0", "gid": "0", "egid": "0",
		"auid": read("/proc/self/loginuid"), "session_id": read("/proc/self/sessionid"),
	}
}

func describe(row map[string]string, h *handed) {
	row["path"], row["filesystem"] = h.path, h.filesystem
	row["flags"] = "0"
	row["device"] = strconv.FormatUint(h.stat.Dev, 10)
	row["inode"] = strconv.FormatUint(h.stat.Ino, 10)
	row["mtime"] = strconv.FormatInt(h.stat.Mtim.Sec, 10)
	row["ctime"] = strconv.FormatInt(h.stat.Ctim.Sec, 10)
}

// checkTime compares a row's clocks with the guest's.
func checkTime(t *testing.T, row map[string]string, began time.Time) {
	t.Helper()
	at := time.Unix(0, integer(t, row["time_nanos"]))
	// The two clocks are not read in one moment.
	require.WithinRange(t, at, began.Add(-time.Second), time.Now().Add(time.Second))
	require.Equal(t, at.Unix(), integer(t, row["time"]))
	var info unix.Sysinfo_t
	require.NoError(t, unix.Sysinfo(&info))
	require.InDelta(t, info.Uptime, integer(t, row["uptime"]), 30)
}

func withoutTime(row map[string]string) map[string]string {
	row = with(row, "", "")
	for _, name := range []string{"", "time", "time_nanos", "uptime", "eid"} {
		delete(row, name)
	}
	return row
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

// unprivileged runs f on a thread whose effective user is nobody. The thread
// ends with it.
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

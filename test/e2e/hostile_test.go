//go:build linux

package e2e

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery/test/hostile"
	"github.com/kmodquery/kmodquery/test/vm"
	"github.com/kmodquery/kmodquery/test/vm/guest"
)

// TestGuestPathOfADetachedMountIsNotAbsolute loads a file through a detached mount,
// below which a path can imitate any path of the system.
func TestGuestPathOfADetachedMountIsNotAbsolute(t *testing.T) {
	guest.Only(t)
	image, err := guest.ModuleImage("dummy")
	require.NoError(t, err)
	dir := t.TempDir()
	require.NoError(t, unix.Mount("none", dir, "tmpfs", 0, ""))
	defer unix.Unmount(dir, unix.MNT_DETACH)
	forged := "lib/modules/dummy.ko"
	require.NoError(t, os.MkdirAll(filepath.Join(dir, filepath.Dir(forged)), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, forged), image, 0o600))
	tree, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	require.NoError(t, err)
	defer unix.Close(tree)
	fd, err := unix.Openat(tree, forged, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(fd)

	before := latest(t)
	require.NoError(t, unix.FinitModule(fd, "", 0))
	defer guest.Unload("dummy")
	rows := eventsSince(t, before)
	require.Equal(t, byFile, column(rows, "event_name"))
	require.Equal(t, forged, rows[0]["path"], "not absolute: the mount is below no root of the loader")
	require.Equal(t, "path", rows[0]["missing"])
}

// everyName is a file name with every byte that one may have.
var everyName = strings.ReplaceAll(hostile.EveryByte(), "/", "")

// TestGuestShowsAnyByteOfAProcessSafely loads a module by a process whose names, paths,
// arguments and module requests have every byte.
func TestGuestShowsAnyByteOfAProcessSafely(t *testing.T) {
	guest.Only(t)
	self, err := os.Executable()
	require.NoError(t, err)
	dir, err := os.MkdirTemp(filepath.Dir(self), "bytes") // on the same filesystem, for a hard link
	require.NoError(t, err)
	defer os.RemoveAll(dir)
	dir = filepath.Join(dir, everyName)
	require.NoError(t, os.Mkdir(dir, 0o700))
	program, module := filepath.Join(dir, everyName), filepath.Join(dir, "dummy.ko")
	require.NoError(t, os.Link(self, program))
	require.NoError(t, os.WriteFile(module, image(t, "dummy"), 0o600))

	before := latest(t)
	cmd := cast(t, "bytes", module, hostile.EveryByte())
	cmd.Path, cmd.Dir, cmd.Args[0] = program, dir, hostile.EveryByte()
	require.NoError(t, cmd.Run())

	rows := eventsSince(t, before)
	for _, row := range rows {
		for column, value := range row {
			require.Empty(t, hostile.Harm(value), column)
		}
	}
	loads := slices.DeleteFunc(slices.Clone(rows), func(row map[string]string) bool { return row["event_name"] != "module_load" })
	var comms []string
	for _, row := range loads {
		comms = append(comms, hostile.Unescape(row["process_name"]))
		for column, want := range map[string]string{
			"path": module, "process_path": program, "cwd": dir, "params": hostile.EveryByte(),
			"cmdline": commandLine(cmd.Args),
		} {
			require.Equal(t, want, hostile.Unescape(row[column]), column)
			require.NotContains(t, strings.Split(row["missing"], ","), column)
		}
		chain := parseAncestors(t, row["ancestors"])
		require.Equal(t, program, hostile.Unescape(chain[0].Path), "the child runs the same program")
		require.Equal(t, everyName[:15], hostile.Unescape(chain[0].Comm))
	}
	require.Equal(t, pieces(15), comms)

	var names, requests []string
	for _, row := range rows {
		switch row["event_name"] {
		case "delete_module":
			if row["error"] != "" {
				require.Equal(t, "ENOENT", row["error"])
				names = append(names, hostile.Unescape(row["name"]))
			}
		case "module_request":
			if kind, isFilesystem := strings.CutPrefix(hostile.Unescape(row["name"]), "fs-"); isFilesystem {
				requests = append(requests, kind)
			}
		}
	}
	require.Equal(t, pieces(40), names)
	var filesystems []string
	for _, piece := range pieces(40) {
		filesystem, _, _ := strings.Cut(piece, ".") // FUSE types have a subtype after the dot
		filesystems = append(filesystems, filesystem)
	}
	require.Subset(t, requests, filesystems)

	reasons := query(t, "SELECT reason, event FROM kernel_module_findings WHERE eid > %d AND signature_id = 'TRC-1017'", before)
	require.Len(t, reasons, len(loads))
	for _, row := range reasons {
		require.Empty(t, hostile.Harm(row["reason"]))
		require.Empty(t, hostile.Harm(row["event"]))
		var event struct{ Path, Cmdline string }
		require.NoError(t, json.Unmarshal([]byte(row["event"]), &event))
		require.Equal(t, module, hostile.Unescape(event.Path))
		require.Equal(t, commandLine(cmd.Args), hostile.Unescape(event.Cmdline))
	}
	shown := query(t, "SELECT count(*) AS n FROM kernel_module_events WHERE eid > %d AND event_name = 'module_load' AND cmdline = '%s'",
		before, strings.ReplaceAll(loads[0]["cmdline"], "'", "''"))
	require.Equal(t, strconv.Itoa(len(loads)), shown[0]["n"])
	for _, row := range query(t, "SELECT * FROM kernel_module_events WHERE source IN ('journal', 'kmsg', 'syslog')") {
		for column, value := range row {
			require.Empty(t, hostile.Harm(value), column)
		}
	}
}

// pieces returns all bytes except NUL, in texts of the given size.
func pieces(size int) []string {
	var list []string
	for piece := range slices.Chunk([]byte(hostile.EveryByte()), size) {
		list = append(list, string(piece))
	}
	return list
}

// bytesRole makes a child load and unload the file in its first argument under each
// possible thread name, and request modules of each name.
func bytesRole() error {
	if os.Getenv("BYTES") == "" {
		child := exec.Command("/proc/self/exe", os.Args[1:]...)
		child.Path, child.Args[0] = "/proc/self/exe", os.Args[0]
		child.Env = append(os.Environ(), "BYTES=child")
		child.Stderr = os.Stderr
		return child.Run()
	}
	file, err := os.Open(os.Args[1])
	if err != nil {
		return err
	}
	defer file.Close()
	for _, comm := range pieces(15) {
		name := []byte(comm + "\x00")
		if err := unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&name[0])), 0, 0, 0); err != nil {
			return err
		}
		runtime.KeepAlive(name)
		if err := unix.FinitModule(int(file.Fd()), os.Args[2], 0); err != nil {
			return fmt.Errorf("load as %q: %w", comm, err)
		}
		if err := guest.Unload("dummy"); err != nil {
			return err
		}
	}
	for _, name := range pieces(40) {
		if err := unix.DeleteModule(name, unix.O_NONBLOCK); !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("unload %q: %w", name, cmp.Or(err, errAllowed))
		}
		if err := unix.Mount("none", "/tmp", name, 0, ""); !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("mount %q: %w", name, cmp.Or(err, errAllowed))
		}
	}
	return nil
}

// TestGuestReportsALoadWhoseInitStillRuns queries while a module's init runs.
func TestGuestReportsALoadWhoseInitStillRuns(t *testing.T) {
	guest.Only(t)
	image, err := guest.ModuleImage("nbd")
	require.NoError(t, err)
	before := latest(t)
	var returned atomic.Bool
	done := make(chan error, 1)
	go func() {
		// Each device takes the emulator some milliseconds.
		err := guest.LoadImage(image, "nbds_max=600")
		returned.Store(true)
		done <- err
	}()
	require.Eventually(t, func() bool {
		_, err := os.Stat("/sys/module/nbd")
		return err == nil
	}, time.Minute, time.Millisecond)
	found := findings(t, before)
	require.False(t, returned.Load(), "the init ended before the query")
	require.Len(t, found, 1, "the call was under way before the query began")
	require.Equal(t, "nbd", found[0]["name"])
	require.Equal(t, "init_module", found[0]["trigger"])
	require.Empty(t, found[0]["result"])

	require.NoError(t, <-done)
	defer guest.Unload("nbd")
	rows := eventsSince(t, before)
	require.Equal(t, []string{"security_kernel_load_data", "module_load", "init_module", "sys_exit_init_module"}, column(rows, "event_name"))
	require.Equal(t, "result", rows[2]["missing"])
	require.Equal(t, "0", rows[3]["result"])
	require.Equal(t, found, findings(t, before), "the same finding, unchanged")
}

// TestGuestNamesTheLoadThatACallWaitedFor loads one file twice at once.
func TestGuestNamesTheLoadThatACallWaitedFor(t *testing.T) {
	guest.Only(t)
	if guest.Kernel() != vm.Newest().String() {
		t.Skip("runs on the newest kernel: before 6.4 each call reads the file")
	}
	path, err := guest.ModulePath("nbd")
	require.NoError(t, err)
	before := latest(t)
	first := make(chan error, 1)
	go func() { first <- guest.LoadFile(path, "nbds_max=600") }()
	require.Eventually(t, func() bool {
		_, err := os.Stat("/sys/module/nbd")
		return err == nil
	}, time.Minute, time.Millisecond)
	require.NoError(t, guest.LoadFile(path, "nbds_max=1"))
	require.NoError(t, <-first)
	defer guest.Unload("nbd")
	var load, waited map[string]string
	for _, row := range eventsSince(t, before) {
		switch {
		case row["event_name"] == "security_kernel_read_file":
			require.Nil(t, load)
			load = row
		case row["event_name"] == "finit_module" && row["load_id"] != load["load_id"]:
			require.Nil(t, waited)
			waited = row
		}
	}
	require.NotNil(t, waited)
	requireColumns(t, map[string]string{
		"result": "0", "parent_load_id": load["load_id"], "inode": load["inode"], "device": load["device"],
		"type": "kernel-module", "signature_status": "unknown",
	}, waited)
	requireMissing(t, waited, "name", "path", "origin", "size", "sha256", "signer", "taints")
	require.Len(t, findings(t, before), 1, "the call took no module")
}

// floodPause limits the flood to a rate at which the emulator's store can follow.
const floodPause = 2 * time.Millisecond

// TestGuestQueriesEndUnderAFlood queries while an unprivileged user calls init_module
// all the time, so that the kernel always has new records.
func TestGuestQueriesEndUnderAFlood(t *testing.T) {
	guest.Only(t)
	if guest.Kernel() != vm.Newest().String() {
		t.Skip("runs on the newest kernel: the flood is the same on all")
	}
	before := latest(t)
	var stop atomic.Bool
	flooding := make(chan struct{})
	go func() {
		defer close(flooding)
		unprivileged(t, func() {
			for ; !stop.Load(); time.Sleep(floodPause) {
				if err := guest.LoadImage([]byte("x"), ""); !errors.Is(err, unix.EPERM) {
					t.Errorf("init_module: %v", err)
					return
				}
			}
		})
	}()
	defer func() {
		stop.Store(true)
		<-flooding
	}()
	counted := int64(0)
	for range 3 {
		rows := query(t, "SELECT coalesce(sum(count), 0) AS n FROM kernel_module_events WHERE eid > %d AND error = 'EPERM'", before)
		denied := integer(t, rows[0]["n"])
		require.Greater(t, denied, counted)
		counted = denied
	}
}

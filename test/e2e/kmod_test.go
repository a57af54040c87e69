//go:build linux

package e2e

import (
	"bytes"
	"cmp"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery/test/kmod"
	"github.com/kmodquery/kmodquery/test/vm/guest"
)

// TestGuestReportsFirmwareThatAModuleReads loads a module whose init reads a firmware
// file, in the thread that loads the module.
func TestGuestReportsFirmwareThatAModuleReads(t *testing.T) {
	guest.Only(t)
	require.NoError(t, os.MkdirAll("/lib/firmware", 0o755))
	require.NoError(t, os.WriteFile("/lib/firmware/kmodquery-test.bin", []byte("firmware"), 0o644))
	image, err := kmod.Build(kmod.Firmware, nil)
	require.NoError(t, err)
	before := latest(t)
	require.NoError(t, guest.LoadImage(image, ""))
	defer guest.Unload("kmodquery_firmware")
	rows := inOrder(t, eventsSince(t, before))
	require.Equal(t, []string{"security_kernel_load_data", "module_load", "security_kernel_read_file", "init_module"}, column(rows, "event_name"))
	firmware := rows[2]
	require.Equal(t, "firmware", firmware["type"])
	require.Equal(t, "/usr/lib/firmware/kmodquery-test.bin", firmware["path"])
	require.Equal(t, "8", firmware["size"])
	require.Empty(t, firmware["load_id"], "it is not part of the load")
	require.Empty(t, firmware["name"])
	require.Equal(t, process(t)["process_path"], firmware["process_path"])
	want := with(imageInfo(t, image, image, "unsigned"), "name", "kmodquery_firmware")
	for _, i := range []int{0, 1, 3} {
		requireColumns(t, want, rows[i])
		require.Empty(t, rows[i]["missing"])
	}
	found := findings(t, before)
	require.Len(t, found, 1)
	require.Equal(t, "init_module", found[0]["trigger"])
}

// TestGuestReportsALoadInsideALoad loads a module whose init loads another one from
// memory, without a system call, and then fails.
func TestGuestReportsALoadInsideALoad(t *testing.T) {
	guest.Only(t)
	inner := image(t, "dummy")
	params := append([]byte("numdummies=2"), 0)
	outer, err := kmod.Build(kmod.Nested, map[string]uint64{
		"sys_init_module": kallsym(t, "sys_init_module"),
		"image":           uint64(uintptr(unsafe.Pointer(&inner[0]))),
		"len":             uint64(len(inner)),
		"params":          uint64(uintptr(unsafe.Pointer(&params[0]))),
	})
	require.NoError(t, err)
	of := process(t)
	delete(of, "tid") // the thread may be another one
	delete(of, "process_name")
	before := latest(t)
	err = guest.LoadImage(outer, "")
	runtime.KeepAlive(inner) // the kernel has only its address
	runtime.KeepAlive(params)
	require.ErrorIs(t, err, unix.ENODEV)
	require.DirExists(t, "/sys/module/dummy")
	defer guest.Unload("dummy")

	rows := inOrder(t, eventsSince(t, before))
	wrapper, payload := rows[0]["load_id"], ""
	var seen []string
	for _, row := range rows {
		seen = append(seen, row["name"]+" "+row["event_name"]+" "+row["error"])
		if row["name"] == "dummy" {
			payload = row["load_id"]
			require.Equal(t, wrapper, row["parent_load_id"])
			require.Equal(t, "numdummies=2", row["params"])
			require.Equal(t, strconv.Itoa(len(inner)), row["size"])
			require.Equal(t, "kernel", row["origin"])
			requireColumns(t, imageInfo(t, inner, inner, "valid"), row)
		} else {
			require.Equal(t, wrapper, row["load_id"])
			require.Empty(t, row["parent_load_id"])
			require.Equal(t, "memory", row["origin"])
			requireColumns(t, imageInfo(t, outer, outer, "unsigned"), row)
		}
		requireColumns(t, of, row)
		require.Empty(t, row["missing"])
	}
	require.NotEmpty(t, payload)
	require.NotEqual(t, wrapper, payload)
	found := query(t, "SELECT load_id FROM kernel_module_findings WHERE eid > %d AND signature_id = 'KMQ-1004'", before)
	require.Equal(t, []string{payload}, column(found, "load_id"))
	require.Equal(t, []string{
		"kmodquery_nested security_kernel_load_data ",
		"kmodquery_nested module_load ",
		"dummy security_kernel_load_data ",
		"dummy module_load ",
		"dummy init_module ",
		"kmodquery_nested module_free ",
		"kmodquery_nested init_module ENODEV",
	}, seen)
	require.Len(t, findings(t, before), 2)
}

// inOrder sorts rows by their time. The events of a load are stored when its image was
// read; others do not wait for that.
func inOrder(t *testing.T, rows []map[string]string) []map[string]string {
	t.Helper()
	slices.SortStableFunc(rows, func(a, b map[string]string) int {
		return cmp.Compare(integer(t, a["time_nanos"]), integer(t, b["time_nanos"]))
	})
	return rows
}

// kallsym returns the address of a system call's function, by its name without the
// architecture's prefix.
func kallsym(t *testing.T, name string) uint64 {
	t.Helper()
	prefix := map[string]string{"amd64": "__x64_", "arm64": "__arm64_"}[runtime.GOARCH]
	return symbol(t, prefix+name, "")
}

// symbol returns the address of a symbol of a module, or of the kernel itself.
func symbol(t *testing.T, name, module string) uint64 {
	t.Helper()
	want := []string{name}
	if module != "" {
		want = append(want, "["+module+"]")
	}
	symbols, err := os.ReadFile("/proc/kallsyms")
	require.NoError(t, err)
	for line := range bytes.Lines(symbols) {
		fields := strings.Fields(string(line))
		if len(fields) > 2 && slices.Equal(fields[2:], want) {
			address, err := strconv.ParseUint(fields[0], 16, 64)
			require.NoError(t, err)
			return address
		}
	}
	t.Fatalf("no %v in /proc/kallsyms", want)
	return 0
}

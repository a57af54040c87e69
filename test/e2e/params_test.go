//go:build linux

package e2e

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery/test/vm/guest"
)

// TestGuestReportsTheParamsThatTheKernelTook changes the parameters in one thread while
// another one loads. The rows must have the parameters that the kernel used.
func TestGuestReportsTheParamsThatTheKernelTook(t *testing.T) {
	guest.Only(t)
	const module, parameter = "brd", "/sys/module/brd/parameters/rd_nr"
	content := image(t, module)
	params, err := unix.Mmap(-1, 0, unix.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	require.NoError(t, err)
	defer unix.Munmap(params)
	copy(params, "rd_nr=01")
	number := (*uint32)(unsafe.Pointer(&params[len("rd_n")])) // "r=01"
	texts := [2]uint32{*number, 0}
	copy(params, "rd_nr=02")
	texts[1] = *number

	var stop atomic.Bool
	var changing sync.WaitGroup
	changing.Go(func() {
		for i := 0; !stop.Load(); i++ {
			atomic.StoreUint32(number, texts[i%2])
		}
	})
	defer changing.Wait()
	defer stop.Store(true)

	var taken []string
	before := latest(t)
	for range 20 {
		_, _, errno := unix.Syscall(unix.SYS_INIT_MODULE,
			uintptr(unsafe.Pointer(&content[0])), uintptr(len(content)), uintptr(unsafe.Pointer(&params[0])))
		require.Zero(t, errno)
		taken = append(taken, "rd_nr=0"+strings.TrimSpace(read(t, parameter)))
		require.NoError(t, guest.Unload(module))
	}
	require.Contains(t, taken, "rd_nr=01")
	require.Contains(t, taken, "rd_nr=02")
	for _, event := range []string{"security_kernel_load_data", "module_load", "init_module"} {
		rows := query(t, "SELECT params, missing FROM kernel_module_events WHERE eid > %d AND event_name = '%s' ORDER BY time_nanos", before, event)
		require.Equal(t, taken, column(rows, "params"), event)
		require.NotContains(t, column(rows, "missing"), "params", event)
	}
}

// TestGuestCutsLongParams passes more parameters than a row has room for, and
// parameters that the kernel refuses.
func TestGuestCutsLongParams(t *testing.T) {
	guest.Only(t)
	content := image(t, "dummy")
	for _, test := range []struct {
		name, params, shown string
		errno               error
		missing             string
	}{
		{"as many as fit", "x=" + strings.Repeat("y", 1020), "x=" + strings.Repeat("y", 1020), nil, ""},
		{"more", "x=" + strings.Repeat("y", 2000), "x=" + strings.Repeat("y", 1021), nil, "params"},
		{"an invalid value", "numdummies=many", "numdummies=many", unix.EINVAL, ""},
		{"blanks and quotes", ` numdummies=1  x="a b"`, ` numdummies=1  x="a b"`, nil, ""},
		{"no UTF-8", "x=\xff\x01", `x=\xff\x01`, nil, ""},
		{"none", "", "", nil, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := latest(t)
			require.ErrorIs(t, guest.LoadImage(content, test.params), test.errno)
			if test.errno == nil {
				require.NoError(t, guest.Unload("dummy"))
			}
			rows := query(t, `SELECT event_name, params, missing FROM kernel_module_events
				WHERE eid > %d AND event_name NOT IN ('module_free', 'delete_module')`, before)
			require.GreaterOrEqual(t, len(rows), 2)
			for _, row := range rows {
				require.Equal(t, test.shown, row["params"], row["event_name"])
				require.Equal(t, test.missing, row["missing"], row["event_name"])
			}
		})
	}
}

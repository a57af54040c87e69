//go:build linux

package e2e

import (
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery/test/vm/guest"
)

// TestGuestReturnAfterARestartIsNoSecondCall starts another recorder while a call of
// init_module is under way that is stored without its result.
func TestGuestReturnAfterARestartIsNoSecondCall(t *testing.T) {
	needPinned(t)
	const name = "tcp_nv"
	module := image(t, name)
	p := newDeployment(t)
	recorder := p.startRecorder(t, guestExtension)
	p.awaitActive(t)
	events := func() []map[string]string {
		return p.query(t, "SELECT * FROM kernel_module_events WHERE source = 'ebpf' ORDER BY eid")
	}

	params, send := lateMemory(t)
	returned := make(chan unix.Errno, 1)
	go func() {
		_, _, errno := unix.Syscall(unix.SYS_INIT_MODULE, uintptr(unsafe.Pointer(&module[0])), uintptr(len(module)), params)
		runtime.KeepAlive(module)
		returned <- errno
	}()
	require.Eventually(t, func() bool { return len(events()) == 2 }, time.Minute, 100*time.Millisecond)
	call := events()[1]
	require.Equal(t, "init_module", call["event_name"])
	requireMissing(t, call, "result")
	recorder.terminate(t)

	recorder = p.startRecorder(t, guestExtension)
	p.awaitActive(t)
	send()
	require.Zero(t, <-returned)
	defer guest.Unload(name)
	rows := events()
	require.Equal(t, []string{"security_kernel_load_data", "init_module", "module_load", "sys_exit_init_module"}, column(rows, "event_name"))
	for _, row := range rows {
		require.Equal(t, call["load_id"], row["load_id"])
	}
	require.Equal(t, call, rows[1])
	requireColumns(t, map[string]string{"name": name, "result": "0", "origin": "memory"}, rows[3])
	requireMissing(t, rows[3], "sha256", "signer")
	found := p.query(t, "SELECT \"trigger\" FROM kernel_module_findings WHERE source = 'ebpf' AND signature_id = 'TRC-1017'")
	require.Equal(t, []string{"init_module"}, column(found, "trigger"), strings.Join(column(found, "trigger"), " "))
	recorder.terminate(t)
}

// lateMemory returns the address of a page that holds up whoever reads it until send is
// called. Then it is zero. See userfaultfd(2).
func lateMemory(t *testing.T) (address uintptr, send func()) {
	t.Helper()
	const (
		api, register, zeropage = 0xc018aa3f, 0xc020aa00, 0xc020aa04 // UFFDIO_API, UFFDIO_REGISTER, UFFDIO_ZEROPAGE
		version, missing        = 0xaa, 1                            // UFFD_API, UFFDIO_REGISTER_MODE_MISSING
	)
	size := os.Getpagesize()
	page, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	require.NoError(t, err)
	address = uintptr(unsafe.Pointer(&page[0]))
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC, 0, 0)
	require.Zero(t, errno)
	control := func(request uintptr, argument ...uint64) {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, request, uintptr(unsafe.Pointer(&argument[0])))
		require.Zero(t, errno, "%x", request)
	}
	control(api, version, 0, 0)
	control(register, uint64(address), uint64(size), missing, 0)
	t.Cleanup(func() {
		unix.Close(int(fd))
		unix.Munmap(page)
	})
	return address, func() { control(zeropage, uint64(address), uint64(size), 0, 0) }
}

//go:build linux

package e2e

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery/test/kmod"
	"github.com/kmodquery/kmodquery/test/vm"
	"github.com/kmodquery/kmodquery/test/vm/guest"
)

// taintUnsigned is TAINT_UNSIGNED_MODULE.
const taintUnsigned = 1 << 13

// signatures are the possible signatures of a module, on a kernel that also loads
// unsigned modules.
var signatures = []struct {
	name    string
	change  func(image []byte) ([]byte, error)
	status  string
	errno   syscall.Errno // 0 if it loads
	signed  bool          // and modinfo can print the signer
	missing string
}{
	{"none", kmod.Strip, "unsigned", 0, false, ""},
	{"of a key that the kernel does not have", resign, "untrusted", 0, true, ""},
	{"that is wrong", kmod.Forge, "rejected", unix.EKEYREJECTED, true, ""},
	{"that is longer than the module", kmod.Overlong, "rejected", unix.EBADMSG, false, "signer,signature_key_id,signature_hash"},
}

// resign replaces the signature of a module.
func resign(image []byte) ([]byte, error) {
	stripped, err := kmod.Strip(image)
	if err != nil {
		return nil, err
	}
	return kmod.Sign(stripped, "Mallory's key")
}

func TestGuestReportsSignatures(t *testing.T) {
	guest.Only(t)
	for _, s := range signatures {
		for _, byFile := range []bool{true, false} {
			way := map[bool]string{true: " in a file", false: " in memory"}[byFile]
			t.Run(s.name+way, func(t *testing.T) {
				image, err := s.change(image(t, "dummy"))
				require.NoError(t, err)
				handed := &handed{bytes: image}
				if byFile {
					handed = handFile(t, image, "/run", "signature.ko", "tmpfs")
				}
				want := with(imageInfo(t, image, image, s.status), "name", "dummy")
				if s.signed {
					sign(t, want, image)
				}
				before := latest(t)
				err = handed.load("")
				defer guest.Unload("dummy")
				if s.errno == 0 {
					require.NoError(t, err)
				} else {
					require.ErrorIs(t, err, s.errno)
				}
				rows := eventsSince(t, before)
				for _, row := range rows {
					requireColumns(t, want, row)
					require.ElementsMatch(t, strings.Split(s.missing, ","), strings.Split(row["missing"], ","))
				}
				requireVerdict(t, rows, s.errno)
				found := findings(t, before)
				require.Len(t, found, 1)
				require.Equal(t, s.status, found[0]["signature_status"])
			})
		}
	}
}

// requireVerdict compares the result of the attempt.
func requireVerdict(t *testing.T, rows []map[string]string, errno syscall.Errno) {
	t.Helper()
	last := rows[len(rows)-1]
	if errno != 0 {
		require.Len(t, rows, 2, "no module_load")
		require.Equal(t, unix.ErrnoName(errno), last["error"])
		return
	}
	require.Len(t, rows, 3)
	require.Equal(t, "0", last["result"])
	taints := integer(t, rows[1]["taints"])
	require.NotZero(t, taints&taintUnsigned, "taints %d", taints)
	require.Contains(t, rows[1]["taint_flags"], "E")
}

// enforceEnv is set in the VMs that TestSignatureEnforced boots.
const enforceEnv = "KMODQUERY_SIG_ENFORCE"

// TestSignatureEnforced boots kernels that refuse modules without a trusted signature: in
// make test only the newest, which logs a refusal.
func TestSignatureEnforced(t *testing.T) {
	t.Parallel()
	for _, kernel := range kernelsBut("5.10", "6.12") { // as 6.1, and as on arm64
		if isSmall() && kernel.String() != vm.Newest().String() {
			continue
		}
		t.Run(kernel.String(), func(t *testing.T) {
			t.Parallel()
			steps := []vm.Step{
				// It runs first, because it backfills from the kernel's whole log.
				{Name: "kernel log", Pattern: "^TestGuestLogReportsRefusedModules$", Env: []string{textEnv + "=" + sigEnforce}},
				{Name: "events", Pattern: "^TestGuest(ReportsRejectedSignatures|ReportsCallsWhileModulesAreDisabled)$", Env: []string{enforceEnv + "=1"}},
			}
			if name := kernel.String(); name != "6.1" && name != vm.Newest().String() {
				steps = steps[1:]
			}
			vm.TestSteps(t, kernel, steps, vm.Options{
				Files:   map[string]string{guestExtension: buildExtension(t, kernel.Arch)},
				Cmdline: []string{sigEnforce},
			})
		})
	}
}

func TestGuestReportsRejectedSignatures(t *testing.T) {
	guest.Only(t)
	if os.Getenv(enforceEnv) == "" {
		t.Skip("runs in the VMs that TestSignatureEnforced boots with module.sig_enforce=1")
	}
	for _, test := range []struct {
		name   string
		change func([]byte) ([]byte, error)
		status string
		errno  syscall.Errno
		signed bool
	}{
		{"Debian's signature", func(image []byte) ([]byte, error) { return image, nil }, "valid", 0, true},
		{"none", kmod.Strip, "rejected", unix.EKEYREJECTED, false},
		{"of a key that the kernel does not have", resign, "rejected", unix.EKEYREJECTED, true},
		{"that is wrong", kmod.Forge, "rejected", unix.EKEYREJECTED, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			image, err := test.change(image(t, "dummy"))
			require.NoError(t, err)
			path := filepath.Join(t.TempDir(), "dummy.ko")
			require.NoError(t, os.WriteFile(path, image, 0o600))
			want := with(imageInfo(t, image, image, test.status), "name", "dummy")
			if test.signed {
				sign(t, want, image)
			}
			before := latest(t)
			err = guest.LoadFile(path, "")
			defer guest.Unload("dummy")
			rows := eventsSince(t, before)
			for _, row := range rows {
				requireColumns(t, want, row)
			}
			found := findings(t, before)
			require.Len(t, found, 1)
			require.Equal(t, "security_kernel_read_file", found[0]["trigger"])
			requireColumns(t, map[string]string{
				"name": "dummy", "path": path, "sha256": sum(image), "signature_status": test.status,
			}, found[0])
			if test.errno == 0 {
				require.NoError(t, err)
				require.Equal(t, byFile, column(rows, "event_name"))
				return
			}
			require.ErrorIs(t, err, test.errno)
			require.Equal(t, []string{"security_kernel_read_file", "finit_module"}, column(rows, "event_name"))
			require.Equal(t, unix.ErrnoName(test.errno), rows[1]["error"])
			require.Equal(t, strconv.Itoa(-int(test.errno)), rows[1]["result"])
		})
	}
}

// TestGuestReportsCallsWhileModulesAreDisabled disables loading for the rest of the
// VM's life.
func TestGuestReportsCallsWhileModulesAreDisabled(t *testing.T) {
	guest.Only(t)
	if os.Getenv(enforceEnv) == "" {
		t.Skip("runs in a VM of its own, that of TestSignatureEnforced")
	}
	const calls = 5
	h := handFile(t, image(t, "dummy"), t.TempDir(), "dummy.ko", "tmpfs")
	before := latest(t)
	require.NoError(t, os.WriteFile("/proc/sys/kernel/modules_disabled", []byte("1"), 0))
	for range calls {
		require.ErrorIs(t, h.load(""), unix.EPERM)
	}
	self := process(t)
	var counted int64
	for _, row := range eventsSince(t, before) {
		requireColumns(t, map[string]string{
			"event_name": "finit_module", "error": "EPERM", "uid": "0",
			"process_path": self["process_path"], "cmdline": self["cmdline"],
		}, row)
		counted += integer(t, row["count"])
	}
	require.EqualValues(t, calls, counted)
}

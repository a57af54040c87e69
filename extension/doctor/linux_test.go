//go:build linux

package doctor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/bpf"
	"github.com/kmodquery/kmodquery/linux/ebpf"
)

func TestHooks(t *testing.T) {
	requireResult(t, hooks(ebpf.Inspection{}, fmt.Errorf("attach: %w", unix.EPERM)), Unknown, "may not ask", "root")
	requireResult(t, hooks(ebpf.Inspection{}, errors.New("ftrace is off")), Warning, "ftrace is off", "stands in")
	found := ebpf.Inspection{Hooks: []bpf.HookInspection{
		{Name: "module_load", Ways: []string{"raw_tp"}}, {Name: "parse_args"}, {Name: "mod_verify_sig", IsOptional: true}, {Name: "sys", Ways: []string{"fexit"}}, {Name: "sys", Ways: []string{"fentry"}},
	}}
	results := hooks(found, nil)
	require.Equal(t, []Status{OK, Warning, Note}, []Status{results[0].Status, results[1].Status, results[2].Status})
	require.Equal(t, "2 functions and tracepoints can be hooked: module_load sys", results[0].Reason)
	require.Equal(t, "hook parse_args", results[1].Name)
	found.WithoutKprobes = true
	requireResult(t, hooks(found, nil), Warning, "kprobes are switched off", "write 1")
}

func TestFallback(t *testing.T) {
	requireResult(t, fallback("it works", nil), OK, "it works", "")
	requireResult(t, fallback("", &kmodquery.NotSupportedError{Missing: "no journal", Need: "systemd"}), Note, "no journal", "systemd")
	requireResult(t, fallback("", unix.EACCES), Unknown, "", "root")
	requireResult(t, fallback("", errors.New("odd")), Note, "odd", "")
}

func TestPinFolder(t *testing.T) {
	requireResult(t, bpffs(""), Note, "pin-dir is none", "")
	requireResult(t, bpffs(filepath.Join(t.TempDir(), "pins")), Warning, "no BPF file system", "mount -t bpf")
	requireResult(t, bpffs("/none/at/all"), Warning, "there is no /none/at", "choose")
}

func TestHolderOfALock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	_, found := holderOf(path)
	require.False(t, found)
	file, err := os.Create(path)
	require.NoError(t, err)
	defer file.Close()
	_, found = holderOf(path)
	require.False(t, found, "it is not locked")
	require.NoError(t, unix.Flock(int(file.Fd()), unix.LOCK_EX))
	pid, found := holderOf(path)
	require.True(t, found)
	require.Equal(t, os.Getpid(), pid)
}

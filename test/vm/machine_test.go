//go:build linux

package vm

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery/test/vm/guest"
)

// machine returns a VM of the oldest kernel with this test binary as its init.
func machine(t *testing.T, args ...string) (*Machine, *bytes.Buffer) {
	t.Helper()
	if testing.Short() {
		t.Skip("boots a VM")
	}
	t.Parallel()
	kernel := Oldest()
	_, err := kernel.Fetch(t.Context(), t.Logf)
	need(t, err)
	init, err := testBinary(t.Context(), kernel.Arch)
	require.NoError(t, err)
	var output bytes.Buffer
	return &Machine{Options: Options{CPUs: 1}, Kernel: kernel, Init: init, Args: args, Output: &output, Log: t.Logf}, &output
}

func TestMachineReturnsOutputAndExitCode(t *testing.T) {
	m, output := machine(t, "/bin/sh", "-c", "echo said >/dev/kmsg; cat /etc/greeting; echo $NAME >&2; echo; printf unfinished; exit 7")
	m.Files = map[string]string{"/etc/greeting": "testdata/greeting"}
	m.Env = []string{"NAME=value"}
	result, err := m.Run(t.Context())
	require.NoError(t, err)
	require.Equal(t, 7, result.ExitCode)
	require.Equal(t, "hello\nvalue\n\nunfinished\n", output.String())
	require.Contains(t, result.Console, "the kernel's log since the program's start:\r\nsaid")
}

func TestMachineRunsProgramsOneAfterTheOther(t *testing.T) {
	m, output := machine(t, "/bin/sh", "-c", "sleep 1000 & echo first")
	m.Env = []string{"NAME=value"}
	m.Then = []guest.Run{
		{Args: []string{"/bin/sh", "-c", "pidof sleep; echo $NAME; exit 3"}, Env: []string{"NAME=other"}},
		{Args: []string{"/bin/sh", "-c", "echo [$NAME]; exit 4"}},
	}
	result, err := m.Run(t.Context())
	require.NoError(t, err)
	require.Equal(t, 3, result.ExitCode)
	require.Equal(t, "first\n"+guest.NextLine+"other\n"+guest.NextLine+"[]\n", output.String())
}

func TestMachineEndsWithItsProgram(t *testing.T) {
	m, output := machine(t, "/bin/sh", "-c", "sleep 1000 & echo started; kill -9 $$")
	result, err := m.Run(t.Context())
	require.NoError(t, err)
	require.Equal(t, 128+9, result.ExitCode)
	require.Equal(t, "started\n", output.String())
}

// cancelOn is a writer that cancels a context when it is written to.
type cancelOn context.CancelFunc

func (c cancelOn) Write(p []byte) (int, error) {
	c()
	return len(p), nil
}

func TestHangingMachineIsEnded(t *testing.T) {
	m, _ := machine(t, "/bin/sh", "-c", "echo here; sleep 1000")
	ctx, cancel := context.WithCancel(t.Context())
	m.Output = cancelOn(cancel)
	_, err := m.Run(ctx)
	var stopped *StoppedError
	require.ErrorAs(t, err, &stopped)
	require.Contains(t, stopped.Reason, "it was ended after")
}

func TestMachineHasATimeout(t *testing.T) {
	m, _ := machine(t, "/bin/sleep", "1000")
	m.Timeout = time.Second
	_, err := m.Run(t.Context())
	var stopped *StoppedError
	require.ErrorAs(t, err, &stopped)
	require.Equal(t, "its timeout of 1s expired", stopped.Reason)
}

func TestMachineBootsAgainAfterAFailedBoot(t *testing.T) {
	for _, test := range []struct {
		name    string
		cmdline []string
		limit   time.Duration
		reason  string
	}{
		{"it hangs", []string{"rdinit=/usr/bin/busybox", "--", "sleep", "1000"}, 3 * time.Second, "it did not boot within 3s"},
		{"it panics", []string{"rdinit=/no/such/program"}, 0, "it did not boot: the guest's kernel panicked: "},
	} {
		t.Run(test.name, func(t *testing.T) {
			m, _ := machine(t, "/bin/true")
			m.Cmdline = test.cmdline
			m.bootLimit = test.limit
			again := 0
			m.Log = func(format string, args ...any) {
				if strings.Contains(fmt.Sprintf(format, args...), "booting again") {
					again++
				}
			}
			_, err := m.Run(t.Context())
			require.ErrorIs(t, err, errNotBooted)
			require.ErrorContains(t, err, test.reason)
			require.Equal(t, boots-1, again)
		})
	}
}

func TestMachinePanicIsReported(t *testing.T) {
	m, _ := machine(t, "/bin/sh", "-c", "echo c >/proc/sysrq-trigger")
	_, err := m.Run(t.Context())
	var panicked *PanicError
	require.ErrorAs(t, err, &panicked)
	require.Contains(t, panicked.Reason, "sysrq triggered crash")
}

func TestMachineWithoutProgramReturnsAnError(t *testing.T) {
	m, _ := machine(t, "/no/such/program")
	_, err := m.Run(t.Context())
	var stopped *StoppedError
	require.ErrorAs(t, err, &stopped)
	require.Contains(t, stopped.Console, "start /no/such/program")
}

func TestMachineRefusesUnknownModule(t *testing.T) {
	m, _ := machine(t, "/bin/true")
	m.Modules = []string{"no_such_module"}
	_, err := m.Run(t.Context())
	require.ErrorContains(t, err, "has no module no_such_module")
}

//go:build linux

package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/kmodquery/kmodquery/test/vm/guest"
)

// Options configure a VM. The zero value is a VM with two processors, 1 GiB of memory
// and the module dummy.
type Options struct {
	Modules []string          // further modules to put into /lib/modules, by name, with their dependencies
	Files   map[string]string // guest path to the host's file or folder to put there
	Ext4    string            // guest path of the image of an empty ext4 filesystem of 4 MiB, for guest.MountImage; empty for none
	Env     []string          // NAME=value for the program in the guest
	Cmdline []string          // additions to the kernel's command line
	Debian  *Debian           // the system to boot instead of one with Modules and Ext4 in an initramfs; Files are added to it
	State   string            // the host's image of the second disk of a Debian, which the guest changes
	Memory  int               // MiB
	CPUs    int               // virtual processors, which Test counts against the host's
	Timeout time.Duration     // for the emulator, from its start to its end; default 5 minutes
}

// A Machine is one run of a VM.
type Machine struct {
	Options
	Kernel Kernel
	// Init is the host's path of the guest's init: a static Linux binary of
	// the kernel's architecture that calls guest.Init. In the guest it is
	// /init.
	Init string
	// Args is the program to run in the guest: its guest path and arguments.
	Args []string
	// Then are further programs. They run one after the other when Args has ended.
	// guest.NextLine precedes the output of each.
	Then []guest.Run
	// Output receives the program's standard output and standard error, and nothing
	// else. It may be nil.
	Output io.Writer
	// Console receives the output of the kernel and of init. It may be nil.
	Console io.Writer
	// Interactive connects the program to this process's terminal instead, as its
	// controlling terminal. Output and Console are then unused, and there is no timeout
	// unless Timeout is set.
	Interactive bool
	// Log reports downloads and installations. It may be nil.
	Log Logf

	bootLimit time.Duration // replaces the constant
	devices   []string      // further arguments of the emulator
}

// A Result describes how a VM's program ended.
type Result struct {
	Release  string        // the kernel's, as uname -r prints it
	ExitCode int           // of the first program that did not end with 0; 128 plus the signal's number if a signal killed it
	Boot     time.Duration // from the emulator's start until the program was started
	Total    time.Duration // from the emulator's start to its end
	CPU      time.Duration // processor time that the emulator used
	Console  string        // the end of the output of the kernel and init; empty when interactive
}

const (
	consoleLimit = 32 << 10
	// bootLimit is many times the duration of a boot. Under emulation, 7.x kernels
	// sometimes hang before their first message, or panic at code that another
	// processor is patching. The next attempt succeeds.
	bootLimit = 90 * time.Second
	boots     = 3
	// bootLimitDebian is the same for a whole Debian with its initial RAM disk.
	bootLimitDebian = 20 * time.Minute
)

// errNotBooted is the cause of a VM's end if it has not started its program within
// bootLimit, or its kernel has panicked before that.
var errNotBooted = errors.New("it did not boot")

// Run boots the VM, waits until it has switched itself off, and returns how its program
// ended. An exit code other than 0 is not an error. The emulator is always dead on
// return, and dies with this process too.
func (m *Machine) Run(ctx context.Context) (*Result, error) {
	logf := m.Log
	if logf == nil {
		logf = func(string, ...any) {}
	}
	p, err := m.Kernel.Arch.platform()
	if err != nil {
		return nil, err
	}
	image, err := m.Kernel.Fetch(ctx, logf)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "kmodquery-vm-")
	if err != nil {
		return nil, fmt.Errorf("make a folder for the VM: %w", err)
	}
	defer os.RemoveAll(dir)
	disk := filepath.Join(dir, "disk.ext4")
	if m.Ext4 != "" {
		if err := makeExt4(ctx, disk); err != nil {
			return nil, err
		}
	}
	initramfs := filepath.Join(dir, "initramfs")
	if m.Debian == nil {
		if err := m.writeInitramfs(initramfs, image, p, disk); err != nil {
			return nil, err
		}
	} else {
		if err := m.install(ctx, p, disk); err != nil {
			return nil, err
		}
		image = &Image{Kernel: m.Kernel, Release: m.Debian.Release, Linux: m.Debian.Linux}
		initramfs = m.Debian.Initrd
		m.bootLimit = defaultTo(m.bootLimit, bootLimitDebian)
		m.devices = m.Debian.arguments(disk, m.State)
		m.Cmdline = slices.Concat(m.Debian.cmdline(), m.Cmdline)
	}
	for boot := 1; ; boot++ {
		result, err := m.emulate(ctx, p, image, initramfs)
		if !errors.Is(err, errNotBooted) || boot == boots {
			return result, err
		}
		logf("kernel %s: %v; booting again", m.Kernel, err)
	}
}

func (m *Machine) arguments(p platform, image *Image, initramfs string) []string {
	// A kernel stops at an oops or a panic: panic=-1 and -no-reboot end the emulator.
	cmdline := append([]string{"console=" + p.console, "quiet", "panic=-1", "oops=panic"}, m.Cmdline...)
	args := append([]string{
		"-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none", "-no-reboot",
		"-accel", "tcg",
		"-m", strconv.Itoa(defaultTo(m.Memory, 1024)),
		"-smp", strconv.Itoa(defaultTo(m.CPUs, 2)),
		"-nic", "none",
		"-kernel", image.Linux,
		"-initrd", initramfs,
		"-append", strings.Join(cmdline, " "),
		// The console passes Ctrl-C to the guest rather than to the emulator.
		"-chardev", "stdio,id=console,signal=off",
		"-serial", "chardev:console",
		// The first of exec.Cmd's ExtraFiles.
		"-chardev", "file,id=results,path=/proc/self/fd/3",
	}, p.machine...)
	return slices.Concat(args, p.resultsPort, m.devices)
}

func (m *Machine) emulate(ctx context.Context, p platform, image *Image, initramfs string) (*Result, error) {
	limit := defaultTo(m.Timeout, 5*time.Minute)
	if m.Timeout != 0 || !m.Interactive {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	limitOfBoot := defaultTo(m.bootLimit, bootLimit)
	booting := time.AfterFunc(limitOfBoot, func() { giveUp(errNotBooted) })
	defer booting.Stop()
	read, write, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make the results pipe: %w", err)
	}
	defer write.Close()

	emulator, err := findProgram(p.emulator)
	if err != nil {
		return nil, fmt.Errorf("find the emulator: %w", err)
	}
	console := newTail(consoleLimit)
	cmd := exec.CommandContext(ctx, emulator, m.arguments(p, image, initramfs)...)
	cmd.ExtraFiles = []*os.File{write}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	switch {
	case m.Interactive:
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	case m.Console != nil:
		cmd.Stdout = io.MultiWriter(console, m.Console)
		cmd.Stderr = cmd.Stdout
	default:
		cmd.Stdout, cmd.Stderr = console, console
	}

	// The kernel sends Pdeathsig when the thread that started the emulator
	// ends, not the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	started := time.Now()
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the emulator: %w", err)
	}
	write.Close()
	results := newResultsReader(m.Output)
	results.onReady = func() { booting.Stop() }
	copied := make(chan error, 1)
	go func() {
		_, err := io.Copy(results, read)
		// An emulator that still writes must not wait for a reader.
		read.Close()
		copied <- err
	}()
	waitErr := cmd.Wait()
	copyErr := <-copied
	code, ended, closeErr := results.close()
	used := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()

	result := &Result{
		Release: image.Release,
		Boot:    results.ready.Sub(started),
		Total:   time.Since(started),
		CPU:     used,
		Console: console.String(),
	}
	switch {
	case errors.Is(context.Cause(ctx), errNotBooted):
		return nil, fmt.Errorf("%w within %v; end of the console: %s", errNotBooted, limitOfBoot, result.Console)
	case ctx.Err() != nil:
		reason := fmt.Sprintf("it was ended after %v", result.Total.Round(time.Second))
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			reason = fmt.Sprintf("its timeout of %v expired", limit)
		}
		return nil, &StoppedError{Reason: reason, Console: result.Console}
	case copyErr != nil || closeErr != nil:
		return nil, fmt.Errorf("read the results: %w", errors.Join(copyErr, closeErr))
	case panicLine(result.Console) != "" && results.ready.IsZero():
		return nil, fmt.Errorf("%w: %w", errNotBooted, &PanicError{Reason: panicLine(result.Console), Console: result.Console})
	case panicLine(result.Console) != "":
		return nil, &PanicError{Reason: panicLine(result.Console), Console: result.Console}
	case waitErr != nil:
		return nil, &StoppedError{Reason: "the emulator failed: " + waitErr.Error(), Console: result.Console}
	case !ended:
		return nil, &StoppedError{Reason: "init reported no exit code", Console: result.Console}
	}
	result.ExitCode = code
	return result, nil
}

func defaultTo[T comparable](value, otherwise T) T {
	var zero T
	if value == zero {
		return otherwise
	}
	return value
}

//go:build linux

package e2e

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// roleEnv makes the test binary play a role instead of running tests.
const roleEnv = "KMODQUERY_TEST_ROLE"

// roles are separate processes that tests need in the guest. Their arguments begin at
// os.Args[1].
var roles = map[string]func() error{
	"load":        loadRole,
	"headless":    headlessRole,
	"bytes":       bytesRole,
	"socket":      socketRole,
	"mount":       mountRole,
	"container":   containerRole,
	"flood":       floodRole,
	"users":       usersRole,
	"requests":    requestsRole,
	"memory":      memoryRole,
	"unload":      unloadRole,
	"audit":       auditRole,
	"auditreader": auditReaderRole,
	"close":       closeRole,
	"osqueryd":    osquerydRole,
	"storm":       stormRole,
}

// cast returns the command of a process that plays the role with the arguments.
func cast(t *testing.T, role string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), self, args...)
	cmd.Env = append(os.Environ(), roleEnv+"="+role)
	cmd.Dir = "/"
	cmd.Stderr = os.Stderr
	return cmd
}

// ordinary makes the command run as a user without any rights.
func ordinary(cmd *exec.Cmd) *exec.Cmd {
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: ordinaryUser, Gid: ordinaryUser}}
	return cmd
}

const ordinaryUser = 1000

// play plays the role and returns its exit code.
func play(role string) int {
	runtime.LockOSThread() // one thread does it all
	f := roles[role]
	if f == nil {
		fmt.Fprintf(os.Stderr, "no role %q\n", role)
		return 2
	}
	if err := f(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// loadRole loads the file in its first argument and ignores the others.
func loadRole() error {
	file, err := os.Open(os.Args[1])
	if err != nil {
		return err
	}
	return unix.FinitModule(int(file.Fd()), "", 0)
}

// headlessRole ends its first thread, loads the file in its first argument, and runs
// insmod with it.
func headlessRole() error {
	go func() {
		for {
			status, err := os.ReadFile("/proc/self/status")
			if err != nil || strings.Contains(string(status), "State:\tZ") {
				break
			}
			time.Sleep(time.Millisecond)
		}
		err := errors.Join(loadRole(), exec.Command("insmod", os.Args[1]).Run())
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1) // the file is loaded already
	}()
	_, _, err := unix.Syscall(unix.SYS_EXIT, 0, 0, 0) // ends this thread only
	return err
}

// memoryRole loads the image in the file of its first argument from memory.
func memoryRole() error {
	image, err := os.ReadFile(os.Args[1])
	if err != nil {
		return err
	}
	return unix.InitModule(image, strings.Join(os.Args[2:], " "))
}

// unloadRole unloads the module in its first argument.
func unloadRole() error { return unix.DeleteModule(os.Args[1], unix.O_NONBLOCK) }

// socketRole opens a socket of a family that is implemented by a module.
func socketRole() error {
	_, err := unix.Socket(unix.AF_ALG, unix.SOCK_SEQPACKET, 0)
	return err
}

// mountRole mounts a filesystem that is implemented by a module. Its user must not
// mount it.
func mountRole() error {
	err := unix.Mount("none", "/tmp", "romfs", 0, "")
	if err == nil {
		return errors.New("mount succeeded")
	}
	return nil
}

// errAllowed means that the kernel permitted something that it should have refused.
var errAllowed = errors.New("the kernel permitted it")

// floodRole calls init_module without the right to, as often as its argument says.
func floodRole() error {
	count, err := strconv.Atoi(os.Args[1])
	if err != nil {
		return err
	}
	for i := range count {
		if err := unix.InitModule([]byte("x"), ""); !errors.Is(err, unix.EPERM) {
			return fmt.Errorf("call %d: %w", i, cmp.Or(err, errAllowed))
		}
	}
	return nil
}

// usersRole calls init_module once as each of several users. The first argument is the
// first UID, the second the number of users.
func usersRole() error {
	first, err := strconv.Atoi(os.Args[1])
	if err != nil {
		return err
	}
	count, err := strconv.Atoi(os.Args[2])
	if err != nil {
		return err
	}
	for uid := first; uid < first+count; uid++ {
		// The saved ID stays root's, so that the thread can return to it.
		if err := becomeUser(uid, uid); err != nil {
			return err
		}
		if err := unix.InitModule([]byte("x"), ""); !errors.Is(err, unix.EPERM) {
			return fmt.Errorf("user %d: %w", uid, cmp.Or(err, errAllowed))
		}
		if err := becomeUser(0, 0); err != nil {
			return err
		}
	}
	return nil
}

// becomeUser calls setresuid(2) for this thread alone and keeps the saved ID.
func becomeUser(real, effective int) error {
	_, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(real), uintptr(effective), ^uintptr(0))
	if errno != 0 {
		return fmt.Errorf("become user %d: %w", real, errno)
	}
	return nil
}

// containerRole loads a module as a process of a container does. Its first argument is
// how the root is changed, its second is the module. Before that it waits for a line,
// so that the test can move it to a control group. Afterwards it waits for the end of
// its input, so that the test can examine it.
func containerRole() error {
	how, path := os.Args[1], os.Args[2]
	module, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	input := bufio.NewReader(os.Stdin)
	if _, err := input.ReadString('\n'); err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	root := containerRoot
	if err := newRoot(root); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(root, "payload.ko"), module, 0o600); err != nil {
		return err
	}
	switch how {
	case "pivot_root":
		err = pivot(root)
	case "chroot":
		err = errors.Join(unix.Chroot(root), unix.Chdir("/"))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", how, err)
	}
	file, err := os.Open("/payload.ko")
	if err != nil {
		return err
	}
	if err := unix.FinitModule(int(file.Fd()), "", 0); err != nil {
		return fmt.Errorf("finit_module: %w", err)
	}
	fmt.Println("loaded")
	_, err = io.Copy(io.Discard, input)
	return err
}

// containerRoot is the folder in which containerRole creates its root.
const containerRoot = "/run/container"

func newRoot(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return unix.Mount("none", dir, "tmpfs", 0, "")
}

// pivot makes dir, a mount, the root of the mount namespace and unmounts the old root.
func pivot(dir string) error {
	// The kernel cannot move the initramfs, so another root is mounted over it first.
	over := "/run/root"
	if err := errors.Join(os.MkdirAll(over, 0o755), unix.Mount("/", over, "", unix.MS_BIND|unix.MS_REC, "")); err != nil {
		return fmt.Errorf("bind the root: %w", err)
	}
	if err := errors.Join(
		unix.Chdir(over), unix.Mount(".", "/", "", unix.MS_MOVE, ""), unix.Chroot("."), unix.Chdir(dir),
	); err != nil {
		return fmt.Errorf("mount another root over the initramfs: %w", err)
	}
	// pivot_root puts the old root at the same place.
	if err := unix.PivotRoot(".", "."); err != nil {
		return err
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount the old root: %w", err)
	}
	return unix.Chdir("/")
}

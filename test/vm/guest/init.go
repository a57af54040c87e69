//go:build linux

package guest

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// Init returns at once unless this process is the init of a VM that package vm booted.
// Otherwise it sets the system up, runs the configured children one after the other,
// writes their output and the first exit code other than 0 to the results port,
// switches the machine off and does not return. Call it at the start of main. If
// another init has set the system up, its service with [ServiceEnv] does the rest.
func Init() {
	if os.Getpid() != 1 && os.Getenv(ServiceEnv) == "" {
		return
	}
	if _, err := os.Stat(ConfigPath); err != nil {
		return
	}
	if err := serve(); err != nil {
		// The host prints the console if no exit code arrives.
		fmt.Fprintf(os.Stderr, "vm init: %v\n", err)
	}
	unix.Sync()
	err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	fmt.Fprintf(os.Stderr, "vm init: power off: %v\n", err)
	os.Exit(1)
}

func serve() error {
	config, err := readConfig()
	if err != nil {
		return err
	}
	if os.Getenv(ServiceEnv) == "" {
		if err := mountAll(); err != nil {
			return err
		}
	}
	if !config.Installed {
		if err := prepare(); err != nil {
			return err
		}
	}
	results, err := openSerial(filepath.Join("/dev", config.Results))
	if err != nil {
		return err
	}
	if _, err := io.WriteString(results, ReadyLine); err != nil {
		return fmt.Errorf("write to the results port: %w", err)
	}
	log, err := openKernelLog()
	if err != nil {
		return err
	}
	code := 0
	for i, run := range config.Runs {
		if i > 0 {
			if _, err := io.WriteString(results, "\n"+NextLine); err != nil {
				return fmt.Errorf("write to the results port: %w", err)
			}
		}
		ended, err := runChild(config, run, results)
		if err != nil {
			return err
		}
		if code == 0 {
			code = ended
		}
	}
	if code != 0 && !config.Interactive {
		log.copyTo(os.Stderr)
	}
	if _, err := fmt.Fprintf(results, "\n%s%d\n", ExitPrefix, code); err != nil {
		return fmt.Errorf("write to the results port: %w", err)
	}
	return drain(results)
}

// runChild returns the child's exit code, or 128 plus the signal's number if a signal
// killed it. On return, all processes that the child left behind are dead and its
// output is copied in full.
func runChild(config *Config, run Run, results io.Writer) (int, error) {
	files, output, err := childFiles(config)
	if err != nil {
		return 0, err
	}
	child, err := os.StartProcess(run.Args[0], run.Args, &os.ProcAttr{
		Env: append([]string{
			"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "TERM=linux", "TMPDIR=/tmp",
			KernelEnv + "=" + config.Kernel,
		}, run.Env...),
		Files: files,
		Sys:   &syscall.SysProcAttr{Setsid: true, Setctty: config.Interactive},
	})
	if err != nil {
		return 0, fmt.Errorf("start %s: %w", run.Args[0], err)
	}
	for _, f := range files {
		f.Close()
	}
	copied := make(chan error, 1)
	go func() {
		_, err := io.Copy(results, output)
		copied <- err
	}()

	status, err := reapUntil(child.Pid)
	if err != nil {
		return 0, err
	}
	// A remaining process may hold the output pipe open.
	if err := unix.Kill(-1, unix.SIGKILL); err != nil && err != unix.ESRCH {
		return 0, fmt.Errorf("kill the processes that the child left behind: %w", err)
	}
	if err := <-copied; err != nil {
		return 0, fmt.Errorf("copy the child's output: %w", err)
	}
	if status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return status.ExitStatus(), nil
}

// childFiles opens the child's three standard files. output reads the child's output;
// it is empty if the child has the console.
func childFiles(config *Config) (files []*os.File, output io.Reader, err error) {
	output, write, err := os.Pipe()
	if err != nil {
		return nil, nil, fmt.Errorf("make the output pipe: %w", err)
	}
	if !config.Interactive {
		null, err := os.Open(os.DevNull)
		if err != nil {
			return nil, nil, fmt.Errorf("open the child's input: %w", err)
		}
		return []*os.File{null, write, write}, output, nil
	}
	write.Close()
	// Not os.OpenFile: its poller would make the terminal non-blocking, which shells
	// take for the end of input.
	fd, err := unix.Open(filepath.Join("/dev", config.Console), unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open the console: %w", err)
	}
	console := os.NewFile(uintptr(fd), config.Console)
	size := &unix.Winsize{Row: config.Rows, Col: config.Cols}
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, size); err != nil {
		return nil, nil, fmt.Errorf("set the console's size: %w", err)
	}
	return []*os.File{console, console, console}, output, nil
}

// reapUntil collects every child and orphan that ends until pid does.
func reapUntil(pid int) (unix.WaitStatus, error) {
	for {
		var status unix.WaitStatus
		got, err := unix.Wait4(-1, &status, 0, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("wait for the child: %w", err)
		}
		if got == pid {
			return status, nil
		}
	}
}

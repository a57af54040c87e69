package loaded

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/kmodquery/kmodquery/internal/cmdout"
)

// maxQuoted bounds the part of standard error that an error quotes, in bytes.
const maxQuoted = 512

// errTooLong is the error for output beyond the limit.
var errTooLong = errors.New("its output is too long")

// run runs a program and returns its output. It kills the program's process group
// after the time within, or when an output exceeds limit bytes.
func run(ctx context.Context, within time.Duration, limit int, program string, arguments ...string) (stdout, stderr string, err error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	out, errs := cmdout.NewHead(limit, errTooLong), cmdout.NewHead(limit, errTooLong)
	cmd := exec.CommandContext(ctx, program, arguments...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.Stdout, cmd.Stderr = out, errs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err = cmd.Run()
	switch {
	case out.IsCut() || errs.IsCut():
		err = errTooLong
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		err = fmt.Errorf("it did not end within %v", within)
	}
	if err != nil {
		err = fmt.Errorf("run %s: %w%s", program, err, quote(errs.Line()))
	}
	return out.String(), errs.String(), err
}

// quote returns a program's standard error as the end of an error message.
func quote(line string) string {
	if line == "" {
		return ""
	}
	return ": " + line[:min(len(line), maxQuoted)]
}

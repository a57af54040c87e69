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

// maxSaid bounds what of a program's errors is quoted, in bytes.
const maxSaid = 512

// errTooMuch is what a program's output beyond the limit is.
var errTooMuch = errors.New("it prints too much")

// run calls a program and returns what it wrote. It is killed, with all that it
// started, when the time is over or when it writes more than limit bytes.
func run(ctx context.Context, within time.Duration, limit int, program string, arguments ...string) (stdout, stderr string, err error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	out, errs := cmdout.NewHead(limit, errTooMuch), cmdout.NewHead(limit, errTooMuch)
	cmd := exec.CommandContext(ctx, program, arguments...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.Stdout, cmd.Stderr = out, errs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err = cmd.Run()
	switch {
	case out.IsCut() || errs.IsCut():
		err = errTooMuch
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		err = fmt.Errorf("it did not end within %v", within)
	}
	if err != nil {
		err = fmt.Errorf("run %s: %w%s", program, err, said(errs.Line()))
	}
	return out.String(), errs.String(), err
}

// said is what a program complained of, as the end of an error.
func said(line string) string {
	if line == "" {
		return ""
	}
	return ": " + line[:min(len(line), maxSaid)]
}

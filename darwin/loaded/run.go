package loaded

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// maxSaid bounds what of a program's errors is quoted, in bytes.
const maxSaid = 512

// errTooMuch is what a program's output beyond the limit is.
var errTooMuch = errors.New("it prints too much")

// A printed is what a program has written to one of its outputs. It embeds no
// buffer: that one's ReadFrom, which os/exec prefers, knows no limit.
type printed struct {
	text  bytes.Buffer
	limit int
	isCut bool
}

func (p *printed) Write(b []byte) (int, error) {
	room := p.limit - p.text.Len()
	if p.isCut = p.isCut || len(b) > room; p.isCut {
		p.text.Write(b[:min(len(b), max(room, 0))])
		return 0, errTooMuch // which ends it
	}
	return p.text.Write(b)
}

// run calls a program and returns what it wrote. It is killed, with all that it
// started, when the time is over or when it writes more than limit bytes.
func run(ctx context.Context, within time.Duration, limit int, program string, arguments ...string) (stdout, stderr string, err error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	out, errs := &printed{limit: limit}, &printed{limit: limit}
	cmd := exec.CommandContext(ctx, program, arguments...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.Stdout, cmd.Stderr = out, errs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err = cmd.Run()
	switch {
	case out.isCut || errs.isCut:
		err = errTooMuch
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		err = fmt.Errorf("it did not end within %v", within)
	}
	if err != nil {
		err = fmt.Errorf("run %s: %w%s", program, err, said(errs.text.String()))
	}
	return out.text.String(), errs.text.String(), err
}

// said is what a program complained of, as the end of an error.
func said(text string) string {
	if text = strings.Join(strings.Fields(text), " "); text == "" {
		return ""
	}
	return ": " + text[:min(len(text), maxSaid)]
}

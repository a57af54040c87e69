package loaded

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kmodquery/kmodquery/darwin/host"
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
	cmd := host.Command(ctx, program, arguments...)
	cmd.Stdout, cmd.Stderr = out, errs
	err = cmd.Run()
	switch {
	case out.IsCut() || errs.IsCut():
		err = errTooLong
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		err = fmt.Errorf("it did not end within %v", within)
	}
	if err != nil {
		said := errs.Said()
		err = fmt.Errorf("run %s: %w%s", program, err, said[:min(len(said), maxQuoted)])
	}
	return out.String(), errs.String(), err
}

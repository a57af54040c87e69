package views

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Taint returns the kernel's own taint, a mask of TAINT_ bits. Any process can read it.
// Root can set bits by writing to the file, but cannot clear them.
func (v *Views) Taint(ctx context.Context) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	var mask int64
	text, err := os.ReadFile(v.path(procTainted))
	if err == nil {
		mask, err = strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	}
	if err != nil {
		return 0, fmt.Errorf("read the kernel's taint: %w", err)
	}
	return mask, nil
}

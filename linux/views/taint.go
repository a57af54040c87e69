package views

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// taintLetters are the letters of the TAINT_ bits in their order
// (kernel/panic.c). G stands for an unset P.
const taintLetters = "PFSRMBUDAWCIOELKXTNJ"

// taintMask returns the mask for the letters with which the kernel shows a module's
// taints. It ignores other characters, such as the + and - of a module that is being loaded
// or unloaded.
func taintMask(letters string) int64 {
	var mask int64
	for _, letter := range letters {
		if bit := strings.IndexRune(taintLetters, letter); bit >= 0 {
			mask |= 1 << bit
		}
	}
	return mask
}

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

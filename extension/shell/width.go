package shell

import (
	"io"
	"os"
	"slices"
	"strings"

	"github.com/mattn/go-isatty"
	"github.com/mattn/go-runewidth"
	"golang.org/x/sys/unix"
)

// marks is how many marks without a width are taken for part of one character. Terminals
// draw more of them over the rows above and below.
const marks = 3

// measure returns the length in bytes and the width in columns of the longest beginning
// of text that is limit columns wide at most. Terminals draw some sequences of characters as one, others
// do not: measure takes the larger width, so that no text wraps to the beginning of a line.
func measure(text string, limit int) (length, width int) {
	zeros := 0
	for i, r := range text {
		w := runewidth.RuneWidth(r)
		switch {
		case r == '\ufe0f': // makes the character before it an emoji
			w = 1
		case w > 0:
			zeros = 0
		default:
			if zeros++; zeros > marks {
				w = 1
			}
		}
		if width+w > limit {
			return i, width
		}
		width += w
	}
	return len(text), width
}

const noLimit = int(^uint(0) >> 1)

func widthOf(text string) int {
	_, width := measure(text, noLimit)
	return width
}

const ellipsis = "…"

// fit returns text, cut if it is wider, with space up to the width.
func fit(text string, width int) string {
	if length, _ := measure(text, width); length < len(text) {
		length, _ = measure(text, width-widthOf(ellipsis))
		text = text[:length] + ellipsis
	}
	return text + strings.Repeat(" ", max(0, width-widthOf(text)))
}

// minCell is the width below which a cell is not cut. Columns up to wholeCell wide, such as
// times and names, are cut after all others.
const (
	minCell   = 8
	wholeCell = 20
)

// share shares limit columns out to columns of these widths. Narrow ones stay whole or lose a
// quarter at most, and the others get as much as they need up to a common width. ok is false if
// that is not possible.
func share(widths []int, limit int) (shared []int, ok bool) {
	for whole := wholeCell; whole >= minCell; whole-- {
		rest := limit
		var wide []int
		for _, w := range widths {
			if w <= whole {
				rest -= w
			} else {
				wide = append(wide, w)
			}
		}
		common, left, ok := commonWidth(wide, rest)
		isCut := func(w int) bool { return w > whole && w <= wholeCell && 4*common < 3*w }
		if !ok || slices.ContainsFunc(widths, isCut) {
			continue
		}
		for _, w := range widths {
			switch {
			case w <= whole:
				shared = append(shared, w)
			case w > common && left > 0:
				shared, left = append(shared, common+1), left-1
			default:
				shared = append(shared, min(w, common))
			}
		}
		return shared, true
	}
	return nil, false
}

// commonWidth returns the width up to which all columns of these widths fit into limit, and how
// many columns are left then. ok is false if that is less than minCell.
func commonWidth(widths []int, limit int) (common, left int, ok bool) {
	need := func(most int) (sum int) {
		for _, w := range widths {
			sum += min(w, most)
		}
		return sum
	}
	if need(minCell) > limit {
		return 0, 0, false
	}
	common = minCell
	for need(common+1) <= limit && need(common+1) > need(common) {
		common++
	}
	return common, limit - need(common), true
}

// screenWidth returns how many columns the terminal w has, or 0 if w is none.
func screenWidth(w io.Writer) int {
	file, ok := w.(*os.File)
	if !ok || !isatty.IsTerminal(file.Fd()) {
		return 0
	}
	size, err := unix.IoctlGetWinsize(int(file.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	return int(size.Col)
}

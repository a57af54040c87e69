package shell

import (
	"io"
	"os"
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

// minCell is the width below which a cell is not cut.
const minCell = 8

// share shares limit columns out to columns of these widths: all get as much as they need
// up to a common width. ok is false if that is less than minCell.
func share(widths []int, limit int) (shared []int, ok bool) {
	need := func(most int) (sum int) {
		for _, w := range widths {
			sum += min(w, most)
		}
		return sum
	}
	if need(minCell) > limit {
		return nil, false
	}
	widest := minCell
	for need(widest+1) <= limit && need(widest+1) > need(widest) {
		widest++
	}
	rest := limit - need(widest)
	for _, w := range widths {
		if w > widest && rest > 0 {
			shared, rest = append(shared, widest+1), rest-1
		} else {
			shared = append(shared, min(w, widest))
		}
	}
	return shared, true
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

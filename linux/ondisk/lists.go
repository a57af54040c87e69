package ondisk

import (
	"bufio"
	"io"
	"os"
	"strings"
)

// maxLine bounds a line that is read of an index or a package's list. One that
// is longer is an error.
const maxLine = 64 << 10

func newLines(r io.Reader) *bufio.Scanner {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	return lines
}

// eachModule hands the lines of a package's list that name a module's file to
// visit.
func eachModule(list string, visit func(path string)) error {
	file, err := os.Open(list)
	if err != nil {
		return err
	}
	defer file.Close()
	lines := newLines(file)
	for lines.Scan() {
		if line := lines.Text(); strings.Contains(line, ".ko") {
			if _, isModule := fileName(line); isModule {
				visit(line)
			}
		}
	}
	return lines.Err()
}

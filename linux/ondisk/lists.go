package ondisk

import (
	"bufio"
	"io"
	"os"
	"strings"
)

// maxLine bounds a line of an index or a package's list, in bytes. A longer line is an
// error.
const maxLine = 64 << 10

func newLines(r io.Reader) *bufio.Scanner {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	return lines
}

// eachModule calls visit with each line of a package's list that names a module's file.
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

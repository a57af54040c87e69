//go:build linux

package ondisk

import (
	"context"
	"io"
	"path/filepath"
	"sync"

	"github.com/kmodquery/kmodquery/linux/host"
)

const pacmanLocal = "/var/lib/pacman/local"

// newPacman returns the local database of pacman(8). It has a folder for each package, with
// the package's metadata in the file desc and its list of files in the file files.
func newPacman(root string) *packageLists {
	return &packageLists{root: root, folder: pacmanLocal, read: readPacman}
}

func readPacman(ctx context.Context, root string) (map[string]string, error) {
	return readLists(ctx, root, pacmanLocal+"/*/files", func(list string) func(string) (string, string) {
		name := sync.OnceValue(func() string { return packageName(filepath.Join(filepath.Dir(list), "desc")) })
		return func(path string) (string, string) { return "/" + path, name() }
	})
}

// packageName returns the package's name in a file desc, or "".
func packageName(desc string) string {
	file, err := host.OpenRegular(desc)
	if err != nil {
		return ""
	}
	defer file.Close()
	return parseDesc(file)
}

// parseDesc returns the line after %NAME%, or "".
func parseDesc(r io.Reader) string {
	lines := newLines(r)
	for lines.Scan() {
		if lines.Text() == "%NAME%" && lines.Scan() {
			return lines.Text()
		}
	}
	return ""
}

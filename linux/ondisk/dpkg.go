//go:build linux

package ondisk

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/kmodquery/kmodquery/linux/host"
)

const dpkgInfo = "/var/lib/dpkg/info"

// newDpkg returns dpkg(1)'s lists. dpkg replaces a list by a rename, which changes the
// folder's time.
func newDpkg(root string) *packageLists {
	return &packageLists{root: root, folder: dpkgInfo, read: readDpkg}
}

// readDpkg returns the package that owns each module. If a package diverted the file of another
// package, that file is at the diversion's path (dpkg-divert(1)).
func readDpkg(ctx context.Context, root string) (map[string]string, error) {
	diversions, err := readDiversions(root)
	if err != nil {
		return nil, err
	}
	return readLists(ctx, root, dpkgInfo+"/*.list", func(list string) func(string) (string, string) {
		name := strings.TrimSuffix(filepath.Base(list), ".list")
		plain, _, _ := strings.Cut(name, ":")
		return func(path string) (string, string) {
			if by, isDiverted := diversions[path]; isDiverted && by.pack != plain {
				path = by.to
			}
			return path, name
		}
	})
}

// A diversion moves the files that other packages have at a path to another path.
type diversion struct {
	to   string
	pack string // package whose own file stays; ":" if the administrator made the diversion
}

// readDiversions returns the diversions in dpkg's database, by path.
func readDiversions(root string) (map[string]diversion, error) {
	file, err := host.OpenRegular(filepath.Join(root, "/var/lib/dpkg/diversions"))
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return parseDiversions(file)
}

// parseDiversions parses the file of diversions, which has three lines for each: the path,
// the path of other packages' files, and the package.
func parseDiversions(r io.Reader) (map[string]diversion, error) {
	diversions := map[string]diversion{}
	lines := newLines(r)
	var from, to string
	size := 0
	for n := 1; lines.Scan() && len(diversions) < maxIndex && size < maxIndexSize; n++ {
		size += len(lines.Bytes())
		switch n % 3 {
		case 1:
			from = lines.Text()
		case 2:
			to = lines.Text()
		default:
			diversions[from] = diversion{to: to, pack: lines.Text()}
		}
	}
	return diversions, lines.Err()
}

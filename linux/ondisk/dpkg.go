package ondisk

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// A dpkg reads dpkg(1)'s lists of the files of its packages.
type dpkg struct {
	root string

	mu      sync.Mutex
	changed time.Time
	owners  map[string]string // of the modules among the files
}

func newDpkg(root string) *dpkg { return &dpkg{root: root} }

const dpkgInfo = "/var/lib/dpkg/info"

func (d *dpkg) owner(ctx context.Context, path string) (string, error) {
	// dpkg replaces a list by a rename, which changes the folder's time.
	info, err := os.Stat(below(d.root, dpkgInfo))
	if os.IsNotExist(err) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read dpkg's lists: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.owners == nil || !d.changed.Equal(info.ModTime()) {
		owners, err := d.read(ctx)
		if err != nil {
			return "", fmt.Errorf("read dpkg's lists: %w", err)
		}
		d.owners, d.changed = owners, info.ModTime()
	}
	return d.owners[path], nil
}

// read returns the package that owns each module. If a package diverted the file of another
// package, that file is at the diversion's path (dpkg-divert(1)).
func (d *dpkg) read(ctx context.Context) (map[string]string, error) {
	diversions, err := d.diversions()
	if err != nil {
		return nil, err
	}
	lists, err := filepath.Glob(filepath.Join(below(d.root, dpkgInfo), "*.list"))
	if err != nil {
		return nil, err
	}
	owners := map[string]string{}
	for _, list := range lists {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		name := strings.TrimSuffix(filepath.Base(list), ".list")
		err := eachModule(list, func(path string) {
			by, isDiverted := diversions[path]
			if plain, _, _ := strings.Cut(name, ":"); isDiverted && by.pack != plain {
				path = by.to
			}
			if path = inUsr(d.root, path); len(owners) < maxIndex {
				owners[path] = name
			}
		})
		if err != nil && !os.IsNotExist(err) { // the package may just have been removed
			return nil, err
		}
	}
	return owners, nil
}

// A diversion moves the files that other packages have at a path to another path.
type diversion struct {
	to   string
	pack string // package whose own file stays; ":" if the administrator made the diversion
}

// diversions returns the diversions in dpkg's database, by path.
func (d *dpkg) diversions() (map[string]diversion, error) {
	file, err := os.Open(below(d.root, "/var/lib/dpkg/diversions"))
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
	for lines.Scan() && len(diversions) < maxIndex {
		from := lines.Text()
		if !lines.Scan() {
			break
		}
		to := lines.Text()
		if !lines.Scan() {
			break
		}
		diversions[from] = diversion{to: to, pack: lines.Text()}
	}
	return diversions, lines.Err()
}

package ondisk

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// A pacman reads the local database of pacman(8). It has a folder for each package, with
// the package's metadata in the file desc and its list of files in the file files.
type pacman struct {
	root string

	mu      sync.Mutex
	changed time.Time
	owners  map[string]string
}

func newPacman(root string) *pacman { return &pacman{root: root} }

const pacmanLocal = "/var/lib/pacman/local"

func (p *pacman) owner(ctx context.Context, path string) (string, error) {
	info, err := os.Stat(below(p.root, pacmanLocal))
	if os.IsNotExist(err) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read pacman's database: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.owners == nil || !p.changed.Equal(info.ModTime()) {
		owners, err := p.read(ctx)
		if err != nil {
			return "", fmt.Errorf("read pacman's database: %w", err)
		}
		p.owners, p.changed = owners, info.ModTime()
	}
	return p.owners[path], nil
}

func (p *pacman) read(ctx context.Context) (map[string]string, error) {
	lists, err := filepath.Glob(filepath.Join(below(p.root, pacmanLocal), "*", "files"))
	if err != nil {
		return nil, err
	}
	owners := map[string]string{}
	for _, list := range lists {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		name := ""
		err := eachModule(list, func(path string) {
			if name == "" {
				name = packageName(filepath.Join(filepath.Dir(list), "desc"))
			}
			if path = inUsr(p.root, "/"+path); name != "" && len(owners) < maxIndex {
				owners[path] = name
			}
		})
		if err != nil && !os.IsNotExist(err) { // the package may just have been removed
			return nil, err
		}
	}
	return owners, nil
}

// packageName returns the package's name in a file desc, or "".
func packageName(desc string) string {
	file, err := os.Open(desc)
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

package loaded

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// bundleFolders are the folders of kernel extensions. If two have a bundle with the
// same id, the first one counts.
var bundleFolders = []string{
	"/System/Library/Extensions",
	"/Library/Apple/System/Library/Extensions",
	"/Library/Extensions",
}

const (
	// maxBundles bounds the bundles that are read.
	maxBundles = 8192
	// bundlesTime bounds the time for reading all of them.
	bundlesTime = 20 * time.Second
)

// bundles finds the bundle of an extension by its id. It reads the folders again when
// they change. It is safe for concurrent use.
type bundles struct {
	folders []string

	mu      sync.Mutex
	changed []time.Time
	paths   map[string]string // by id
}

// find returns the path of a bundle, or "".
func (b *bundles) find(ctx context.Context, id string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	changed := make([]time.Time, len(b.folders))
	for i, folder := range b.folders {
		if info, err := os.Stat(folder); err == nil {
			changed[i] = info.ModTime()
		}
	}
	if b.paths == nil || !slices.EqualFunc(changed, b.changed, time.Time.Equal) {
		ctx, cancel := context.WithTimeout(ctx, bundlesTime)
		defer cancel()
		paths := map[string]string{}
		for _, folder := range b.folders {
			addBundles(ctx, paths, folder, true)
		}
		if ctx.Err() != nil {
			return paths[id] // from the folders that were read in time
		}
		b.paths, b.changed = paths, changed
	}
	return b.paths[id]
}

// addBundles adds the bundles of a folder and the extensions inside them. It ignores
// folders and bundles that cannot be read.
func addBundles(ctx context.Context, paths map[string]string, folder string, isOuter bool) {
	entries, _ := os.ReadDir(folder)
	for _, entry := range entries {
		if filepath.Ext(entry.Name()) != ".kext" || len(paths) >= maxBundles || ctx.Err() != nil {
			continue
		}
		path := filepath.Join(folder, entry.Name())
		if i, _, err := readInfo(path); err == nil && i.ID != "" && paths[i.ID] == "" {
			paths[i.ID] = path
		}
		if isOuter {
			addBundles(ctx, paths, filepath.Join(path, "Contents/PlugIns"), false)
		}
	}
}

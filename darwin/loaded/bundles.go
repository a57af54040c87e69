package loaded

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
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

// find returns the path of a bundle, or "". It reads nothing below the folders of remote.
func (b *bundles) find(ctx context.Context, id string, remote []string) string {
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
			addBundles(ctx, paths, folder, remote, true)
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
func addBundles(ctx context.Context, paths map[string]string, folder string, remote []string, isOuter bool) {
	if isUnder(remote, folder) {
		return
	}
	entries, _ := os.ReadDir(folder)
	for _, entry := range entries {
		if filepath.Ext(entry.Name()) != ".kext" || len(paths) >= maxBundles || ctx.Err() != nil {
			continue
		}
		path := filepath.Join(folder, entry.Name())
		if isUnder(remote, path) {
			continue
		}
		if i, _, err := readInfo(path); err == nil && i.ID != "" && paths[i.ID] == "" {
			paths[i.ID] = path
		}
		if isOuter {
			addBundles(ctx, paths, filepath.Join(path, "Contents/PlugIns"), remote, false)
		}
	}
}

// isUnder reports whether a path is one of the folders or below one. It compares names
// without case, as macOS does, and knows the links of macOS. A path through another link is
// not recognized.
func isUnder(folders []string, path string) bool {
	path = plain(path)
	return slices.ContainsFunc(folders, func(folder string) bool {
		folder = plain(folder)
		return folder == "/" || path == folder || strings.HasPrefix(path, folder+"/")
	})
}

// plain returns a path in lower case and without the links of macOS.
func plain(path string) string {
	path = strings.ToLower(filepath.Clean(path))
	if rest := strings.TrimPrefix(path, "/system/volumes/data/"); rest != path {
		path = "/" + rest
	}
	switch first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/"); first {
	case "tmp", "var", "etc":
		return "/private" + path
	}
	return path
}

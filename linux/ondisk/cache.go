//go:build linux

package ondisk

import (
	"os"
	"sync"
	"time"
)

// A cache holds what was read from a file or a folder until that changes. It may be used
// concurrently.
type cache struct {
	mu      sync.Mutex
	changed time.Time // modification time of the file or folder
	values  map[string]string
}

// get returns what read returns for the file or folder at a path, or nil if there is none.
// The caller must not change the map.
func (c *cache) get(path string, read func() (map[string]string, error)) (map[string]string, error) {
	info, err := os.Stat(path)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.values == nil || !c.changed.Equal(info.ModTime()) {
		values, err := read()
		if err != nil {
			return nil, err
		}
		c.values, c.changed = values, info.ModTime()
	}
	return c.values, nil
}

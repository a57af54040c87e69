package leak

import (
	"os"
	"path/filepath"
	"slices"
)

// The runtime's own, which it opens when it first waits for a file and never
// closes.
var ofTheRuntime = []string{"anon_inode:[eventpoll]", "anon_inode:[eventfd]"}

// openFiles counts the open files of this process by what they are, by Linux's
// /proc. Elsewhere there are none.
func openFiles() map[string]int {
	const dir = "/proc/self/fd"
	files := map[string]int{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return files
	}
	for _, entry := range entries {
		// That of the folder itself is closed by now.
		if target, err := os.Readlink(filepath.Join(dir, entry.Name())); err == nil {
			files[target]++
		}
	}
	for _, target := range ofTheRuntime {
		files[target] = max(files[target]-1, 0)
	}
	return files
}

// more returns what there is more of now than before, in order.
func more(before, now map[string]int) []string {
	var opened []string
	for target, count := range now {
		for range count - before[target] {
			opened = append(opened, target)
		}
	}
	slices.Sort(opened)
	return opened
}

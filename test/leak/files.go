package leak

import (
	"os"
	"path/filepath"
	"slices"
)

// Files that the runtime opens when it first waits for a file, and never closes.
var ofTheRuntime = []string{"anon_inode:[eventpoll]", "anon_inode:[eventfd]"}

// openFiles counts the open files of this process by their targets in Linux's /proc. On
// other systems it returns none.
func openFiles() map[string]int {
	const dir = "/proc/self/fd"
	files := map[string]int{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return files
	}
	for _, entry := range entries {
		// The descriptor of the folder itself is closed by now.
		if target, err := os.Readlink(filepath.Join(dir, entry.Name())); err == nil {
			files[target]++
		}
	}
	for _, target := range ofTheRuntime {
		files[target] = max(files[target]-1, 0)
	}
	return files
}

// more returns, sorted, each file that is open more often now than before, once for
// each additional time.
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

//go:build linux

package host

import (
	"errors"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// MemoryLimit returns how many bytes of memory the control groups let this process use: the
// lowest limit of its own and those above it. It returns 0 if there is no limit or it cannot be
// read. root is "/".
func MemoryLimit(root string) int64 {
	groups, err := readSmall(filepath.Join(root, "proc/self/cgroup"))
	if err != nil {
		return 0
	}
	limit := int64(math.MaxInt64)
	for line := range strings.Lines(groups) {
		// hierarchy:controllers:path, as cgroups(7) has it. Version 2 has no controllers
		// here.
		_, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		controllers, path, isGroup := strings.Cut(rest, ":")
		mount, files := "sys/fs/cgroup", []string{"memory.max", "memory.high"}
		switch {
		case !isGroup:
			continue
		case controllers == "":
		case slices.Contains(strings.Split(controllers, ","), "memory"):
			mount, files = "sys/fs/cgroup/memory", []string{"memory.limit_in_bytes"}
		default:
			continue
		}
		for group := filepath.Join("/", path); ; group = filepath.Dir(group) {
			for _, file := range files {
				text, _ := readSmall(filepath.Join(root, mount, group, file))
				if n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64); err == nil && n > 0 {
					limit = min(limit, n)
				}
			}
			if group == "/" {
				break
			}
		}
	}
	if limit > math.MaxInt64/2 { // version 1 without a limit
		return 0
	}
	return limit
}

// maxSmall bounds a file that readSmall reads.
const maxSmall = 64 << 10

// readSmall returns the text of a small regular file.
func readSmall(path string) (string, error) {
	file, err := OpenRegular(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxSmall))
	if err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	if len(text) == maxSmall {
		return "", errors.New(path + " is too large")
	}
	return string(text), nil
}

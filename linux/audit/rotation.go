//go:build linux

package audit

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// logFiles returns the rotated files that are not compressed, oldest first, and the
// file that the daemon writes to.
func logFiles(path string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("list the audit log's files: %w", err)
	}
	base := filepath.Base(path)
	var rotated []string
	exists := false
	for _, entry := range entries {
		suffix, ok := strings.CutPrefix(entry.Name(), base)
		switch {
		case !ok || !entry.Type().IsRegular():
		case suffix == "":
			exists = true
		case isRotation(suffix):
			rotated = append(rotated, suffix)
		}
	}
	slices.SortFunc(rotated, compareRotations)
	var files []string
	for _, suffix := range rotated {
		files = append(files, path+suffix)
	}
	if exists {
		files = append(files, path)
	}
	return files, nil
}

// isRotation recognizes the names that the daemon (audit.log.3) and logrotate
// (audit.log.3, audit.log-20261124, audit.log-20261124-1732406400) choose.
func isRotation(suffix string) bool {
	return len(suffix) > 1 && (suffix[0] == '.' || suffix[0] == '-') && strings.Trim(suffix[1:], "0123456789-") == ""
}

// compareRotations orders files with dates before those with numbers, of which the
// greater is the older.
func compareRotations(a, b string) int {
	if a[0] != b[0] {
		return cmp.Compare(a[0], b[0]) // '-' is before '.'
	}
	if a[0] == '-' {
		return cmp.Compare(a, b)
	}
	first, _ := strconv.Atoi(a[1:])
	second, _ := strconv.Atoi(b[1:])
	return cmp.Compare(second, first)
}

//go:build linux

package vm

import (
	"context"
	"fmt"
)

// makeExt4 writes the image of an empty ext4 filesystem to the path.
func makeExt4(ctx context.Context, path string) error {
	// A journal would take a quarter of the filesystem.
	if _, err := run(ctx, "", "mkfs.ext4", "-q", "-F", "-O", "^has_journal", path, "4M"); err != nil {
		return fmt.Errorf("make an ext4 filesystem: %w", err)
	}
	return nil
}

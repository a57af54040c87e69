//go:build linux

package vm

import (
	"context"
	"fmt"
	"path"
	"path/filepath"
)

// Programs returns programs of Debian packages, with the libraries that they
// need, for [Options].Files. The packages must have all of these, and the name
// is the cache's for just these packages. The error is one of the host's, as
// [Kernel.Fetch]'s.
func Programs(ctx context.Context, arch Arch, logf Logf, name string, packages []string, programs ...string) (map[string]string, error) {
	p, err := arch.platform()
	if err != nil {
		return nil, err
	}
	if err := Prepare(ctx, arch, logf); err != nil {
		return nil, err
	}
	root, err := cached(ctx, "programs", name+"-"+string(arch), func(dir string) error {
		a, err := openArchive(ctx, toolsSuite, arch, logf)
		if err != nil {
			return err
		}
		logf("downloading %s for %s from Debian %s", name, arch, toolsSuite)
		return a.unpack(ctx, dir, packages...)
	})
	if err != nil {
		return nil, fmt.Errorf("fetch %s: %w", name, err)
	}
	t := &tree{entries: map[string]entry{}}
	l := libraries{root: root, packages: packages, dir: path.Join("/usr/lib", p.triplet), tree: t, seen: map[string]bool{}}
	for _, program := range programs {
		t.file(program, filepath.Join(root, mergedUsr(program)))
		if err := l.add(program); err != nil {
			return nil, err
		}
	}
	files := map[string]string{}
	for guestPath, e := range t.entries {
		if e.source != "" {
			files[guestPath] = e.source
		}
	}
	return files, nil
}

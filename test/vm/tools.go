//go:build linux

package vm

import (
	"context"
	"debug/elf"
	"fmt"
	"os"
	"path"
	"path/filepath"
)

// toolsSuite is the suite of the guest's programs, for every kernel.
const toolsSuite = "trixie"

// toolsPackages are busybox for everyday commands, and Debian's own shell and kmod
// (insmod, rmmod, modprobe, lsmod) with the libraries they need. Busybox's shell runs
// busybox's insmod without exec, so a load would appear to come from the shell.
var toolsPackages = []string{
	"busybox-static", "dash",
	"kmod", "libkmod2", "libc6", "libssl3t64", "zlib1g", "libzstd1", "liblzma5",
}

// fetchTools returns the folder that the packages are unpacked in.
func fetchTools(ctx context.Context, arch Arch, logf Logf) (string, error) {
	root, err := cached(ctx, "tools", string(arch), func(dir string) error {
		a, err := openArchive(ctx, toolsSuite, arch, logf)
		if err != nil {
			return err
		}
		logf("downloading the guest's programs for %s from Debian %s", arch, toolsSuite)
		return a.unpack(ctx, dir, toolsPackages...)
	})
	if err != nil {
		return "", fmt.Errorf("fetch the guest's programs: %w", err)
	}
	return root, nil
}

// addTools puts the guest's programs into the tree.
func addTools(t *tree, root string, p platform) error {
	t.file("/usr/bin/busybox", filepath.Join(root, "usr/bin/busybox"))
	t.file("/usr/bin/dash", filepath.Join(root, "usr/bin/dash"))
	t.link("/usr/bin/sh", "dash")
	t.file("/usr/bin/kmod", filepath.Join(root, "usr/bin/kmod"))
	for _, name := range []string{"insmod", "rmmod", "modprobe", "lsmod", "modinfo", "depmod"} {
		t.link("/usr/sbin/"+name, "../bin/kmod")
	}
	l := libraries{root: root, dir: path.Join("/usr/lib", p.triplet), tree: t, seen: map[string]bool{}}
	for _, program := range []string{"/usr/bin/dash", "/usr/bin/kmod"} {
		if err := l.add(program); err != nil {
			return err
		}
	}
	// libkmod opens it only for compressed modules.
	return l.need("liblzma.so.5")
}

// libraries walks the shared libraries of programs below root and adds them to
// the tree.
type libraries struct {
	root string
	dir  string // the guest folder of libraries
	tree *tree
	seen map[string]bool
}

// add adds the loader and the libraries that the ELF file at the guest path needs.
func (l *libraries) add(guestPath string) error {
	file, err := elf.Open(filepath.Join(l.root, mergedUsr(guestPath)))
	if err != nil {
		return fmt.Errorf("read the libraries of %s: %w", guestPath, err)
	}
	defer file.Close()
	loader, err := interpreter(file)
	if err != nil {
		return fmt.Errorf("read the loader of %s: %w", guestPath, err)
	}
	if loader != "" {
		l.tree.file(loader, filepath.Join(l.root, mergedUsr(loader)))
	}
	needed, err := file.ImportedLibraries()
	if err != nil {
		return fmt.Errorf("read the libraries of %s: %w", guestPath, err)
	}
	for _, name := range needed {
		if err := l.need(name); err != nil {
			return fmt.Errorf("%w (needed by %s)", err, guestPath)
		}
	}
	return nil
}

func (l *libraries) need(name string) error {
	if l.seen[name] {
		return nil
	}
	l.seen[name] = true
	guestPath := path.Join(l.dir, name)
	hostPath := filepath.Join(l.root, guestPath)
	if _, err := os.Stat(hostPath); err != nil {
		return fmt.Errorf("library %s is in none of the packages %v", name, toolsPackages)
	}
	l.tree.file(guestPath, hostPath)
	return l.add(guestPath)
}

// interpreter returns the program's dynamic loader, or "" for a static program.
func interpreter(file *elf.File) (string, error) {
	for _, p := range file.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		name := make([]byte, p.Filesz)
		if _, err := p.ReadAt(name, 0); err != nil {
			return "", fmt.Errorf("read the interpreter: %w", err)
		}
		return string(name[:len(name)-1]), nil
	}
	return "", nil
}

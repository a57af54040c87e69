//go:build linux

package vm

import (
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"strings"
)

// Programs fetches Debian packages from the suite of the guest's own programs, and
// returns files of these packages as [Options] takes them: the programs and shared
// objects at the given guest paths, and the libraries that they need. Each library must
// be in one of the packages or among the guest's own.
func Programs(ctx context.Context, arch Arch, packages, paths []string, logf Logf) (map[string]string, error) {
	p, err := arch.platform()
	if err != nil {
		return nil, err
	}
	tools, err := fetchTools(ctx, arch, logf)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte(strings.Join(packages, " ")))
	root, err := cached(ctx, "programs", string(arch)+"-"+hex.EncodeToString(sum[:4]), func(dir string) error {
		a, err := openArchive(ctx, toolsSuite, arch, logf)
		if err != nil {
			return err
		}
		logf("downloading %s for %s from Debian %s", strings.Join(packages, ", "), arch, toolsSuite)
		return a.unpack(ctx, dir, packages...)
	})
	if err != nil {
		return nil, fmt.Errorf("fetch programs for the guest: %w", err)
	}
	w := programFiles{roots: []string{root, tools}, triplet: p.triplet, files: map[string]string{}}
	for _, guestPath := range paths {
		if err := w.add(guestPath); err != nil {
			return nil, err
		}
	}
	return w.files, nil
}

// programFiles walks the shared libraries of programs below several roots.
type programFiles struct {
	roots   []string
	triplet string
	files   map[string]string // guest path to the host's file
}

var errNoFile = errors.New("in none of the packages")

func (w *programFiles) add(guestPath string) error {
	guestPath = mergedUsr(guestPath)
	if w.files[guestPath] != "" {
		return nil
	}
	hostPath := ""
	for _, root := range w.roots {
		if candidate := filepath.Join(root, guestPath); exists(candidate) && hostPath == "" {
			hostPath = candidate
		}
	}
	if hostPath == "" {
		return fmt.Errorf("%s is %w", guestPath, errNoFile)
	}
	w.files[guestPath] = hostPath
	file, err := elf.Open(hostPath)
	if err != nil {
		var format *elf.FormatError
		if errors.As(err, &format) || errors.Is(err, io.EOF) {
			return nil // a text file
		}
		return fmt.Errorf("read the libraries of %s: %w", guestPath, err)
	}
	defer file.Close()
	loader, err := interpreter(file)
	if err != nil {
		return fmt.Errorf("read the loader of %s: %w", guestPath, err)
	}
	if loader != "" {
		if err := w.add(loader); err != nil {
			return err
		}
	}
	needed, err := file.ImportedLibraries()
	if err != nil {
		return fmt.Errorf("read the libraries of %s: %w", guestPath, err)
	}
	for _, name := range needed {
		if err := w.library(file, path.Dir(guestPath), name); err != nil {
			return fmt.Errorf("%w (needed by %s)", err, guestPath)
		}
	}
	return nil
}

// library adds a library from the folder in which the file in dir looks for it. A
// private library of a program finds other private ones in its own folder, because the
// program has loaded them all.
func (w *programFiles) library(of *elf.File, dir, name string) error {
	folders := []string{path.Join("/usr/lib", w.triplet), dir}
	for _, tag := range []elf.DynTag{elf.DT_RUNPATH, elf.DT_RPATH} {
		set, err := of.DynString(tag)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("read the library search path: %w", err)
		}
		for _, paths := range set {
			folders = append(folders, strings.Split(paths, ":")...)
		}
	}
	var err error
	for _, folder := range folders {
		if err = w.add(path.Join(folder, name)); !errors.Is(err, errNoFile) {
			return err
		}
	}
	return err
}

//go:build linux

package guest

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/ulikunitz/xz"
	"golang.org/x/sys/unix"
)

// ModulePath returns the file of a module of the running kernel by the name that lsmod
// shows. It finds only modules that the host put into the VM.
func ModulePath(name string) (string, error) {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return "", fmt.Errorf("read the kernel's release: %w", err)
	}
	dir := filepath.Join("/usr/lib/modules", unix.ByteSliceToString(uts.Release[:]))
	var found string
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		base, isModule := strings.CutSuffix(strings.TrimSuffix(entry.Name(), ".xz"), ".ko")
		if isModule && strings.ReplaceAll(base, "-", "_") == strings.ReplaceAll(name, "-", "_") {
			found = path
			return fs.SkipAll
		}
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("look for module %s: %w", name, err)
	}
	if found == "" {
		return "", fmt.Errorf("no module %s in %s: name it in vm.Options.Modules", name, dir)
	}
	return found, nil
}

// ModuleImage returns the decompressed ELF image of the module that [ModulePath] finds.
func ModuleImage(name string) ([]byte, error) {
	path, err := ModulePath(name)
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read module %s: %w", name, err)
	}
	if !strings.HasSuffix(path, ".xz") {
		return data, nil
	}
	r, err := xz.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("decompress %s: %w", path, err)
	}
	image, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("decompress %s: %w", path, err)
	}
	return image, nil
}

// LoadFile loads the module file at path through finit_module(2). The kernel
// decompresses .xz files; of the kernels of the matrix, those from 6.12 on have
// compressed modules. The error is the system call's errno, wrapped.
func LoadFile(path, params string) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open module: %w", err)
	}
	defer file.Close()
	flags := 0
	if strings.HasSuffix(path, ".xz") {
		flags = unix.MODULE_INIT_COMPRESSED_FILE
	}
	if err := unix.FinitModule(int(file.Fd()), params, flags); err != nil {
		return fmt.Errorf("finit_module %s: %w", path, err)
	}
	return nil
}

// LoadImage loads a module's ELF image through init_module(2). The error is
// the system call's errno, wrapped.
func LoadImage(image []byte, params string) error {
	if err := unix.InitModule(image, params); err != nil {
		return fmt.Errorf("init_module: %w", err)
	}
	return nil
}

// Unload removes a module through delete_module(2), without waiting for its
// users. The error is the system call's errno, wrapped.
func Unload(name string) error {
	if err := unix.DeleteModule(name, unix.O_NONBLOCK); err != nil {
		return fmt.Errorf("delete_module %s: %w", name, err)
	}
	return nil
}

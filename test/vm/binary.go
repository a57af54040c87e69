//go:build linux

package vm

import (
	"context"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// Self returns this process's own binary for use as a [Machine]'s Init. It
// must be static, which CGO_ENABLED=0 makes it.
func Self() (string, error) {
	path, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find this program: %w", err)
	}
	static, err := isStatic(path)
	if err != nil {
		return "", err
	}
	if !static {
		return "", fmt.Errorf("%s is dynamically linked: build it with CGO_ENABLED=0", path)
	}
	return path, nil
}

// Build compiles the Go package, given as go build takes it, into a static
// Linux binary at the path output, with further flags of go build: with -race into
// one for this host, which is not static. The working directory decides the module.
func Build(ctx context.Context, arch Arch, pkg, output string, flags ...string) error {
	args := append([]string{"build", "-o", output}, flags...)
	return compile(ctx, arch, append(args, pkg)...)
}

// testBinary returns a static test binary of the package in the working
// directory for the architecture: this process's own where that will do, else
// one compiled into dir.
func testBinary(ctx context.Context, arch Arch, dir string) (string, error) {
	if string(arch) == runtime.GOARCH {
		path, err := os.Executable()
		if err != nil {
			return "", fmt.Errorf("find the test binary: %w", err)
		}
		if static, err := isStatic(path); err == nil && static {
			return path, nil
		}
	}
	output := filepath.Join(dir, "guest.test")
	return output, compile(ctx, arch, "test", "-c", "-o", output, ".")
}

func compile(ctx context.Context, arch Arch, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cgo := "CGO_ENABLED=0"
	if slices.Contains(args, "-race") {
		cgo = "CGO_ENABLED=1" // which the race detector needs
	}
	cmd.Env = append(os.Environ(), cgo, "GOOS=linux", "GOARCH="+string(arch))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s for %s: %w: %s", strings.Join(args, " "), arch, err, out)
	}
	return nil
}

func isStatic(path string) (bool, error) {
	file, err := elf.Open(path)
	if err != nil {
		return false, fmt.Errorf("read the program %s: %w", path, err)
	}
	defer file.Close()
	loader, err := interpreter(file)
	if err != nil {
		return false, err
	}
	return loader == "", nil
}

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
	"strconv"
	"strings"
	"sync"
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

// Build compiles the Go package, given as go build takes it, into a static Linux binary
// at the path output. flags are further flags of go build; with -race the binary is for
// this host and is not static. The working directory decides the module.
func Build(ctx context.Context, arch Arch, pkg, output string, flags ...string) error {
	args := append([]string{"build", "-o", output}, flags...)
	return compile(ctx, arch, append(args, pkg)...)
}

// testBinary returns a static test binary of the package in the working directory for
// the architecture. It returns this process's own binary if that is suitable. Otherwise
// it compiles one once, into the system's folder for temporary files, where it stays
// until [RemoveBuilds].
func testBinary(ctx context.Context, arch Arch) (string, error) {
	if string(arch) == runtime.GOARCH {
		path, err := os.Executable()
		if err != nil {
			return "", fmt.Errorf("find the test binary: %w", err)
		}
		if static, err := isStatic(path); err == nil && static {
			return path, nil
		}
	}
	return builds.get("test "+string(arch), "guest.test", func(output string) error {
		return compile(ctx, arch, "test", "-c", "-o", output, ".")
	})
}

// BuildOnce is [Build] for a binary that several tests of this process share. It
// returns the path of the binary. The file has the given name and exists until
// [RemoveBuilds].
func BuildOnce(ctx context.Context, arch Arch, pkg, name string, flags ...string) (string, error) {
	return builds.get(fmt.Sprint(arch, pkg, flags), name, func(output string) error {
		return Build(ctx, arch, pkg, output, flags...)
	})
}

// RemoveBuilds removes the binaries that BuildOnce and Test have built. Call it at the
// end of a package's TestMain.
func RemoveBuilds() error { return builds.remove() }

// A buildSet is a folder of binaries, each built at the first request for it.
type buildSet struct {
	mu    sync.Mutex
	dir   string
	built map[string]func() (string, error)
}

var builds buildSet

// get returns the path of the binary with that key. It calls build at the first
// request.
func (s *buildSet) get(key, name string, build func(output string) error) (string, error) {
	s.mu.Lock()
	once := s.built[key]
	if once == nil {
		if s.dir == "" {
			dir, err := os.MkdirTemp("", "kmodquery-build-")
			if err != nil {
				s.mu.Unlock()
				return "", fmt.Errorf("make a folder for binaries: %w", err)
			}
			s.dir, s.built = dir, map[string]func() (string, error){}
		}
		output := filepath.Join(s.dir, strconv.Itoa(len(s.built)), name)
		once = sync.OnceValues(func() (string, error) {
			if err := os.MkdirAll(filepath.Dir(output), 0o700); err != nil {
				return "", fmt.Errorf("make a folder for a binary: %w", err)
			}
			return output, build(output)
		})
		s.built[key] = once
	}
	s.mu.Unlock()
	return once()
}

func (s *buildSet) remove() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	dir := s.dir
	s.dir, s.built = "", nil
	if dir == "" {
		return nil
	}
	return os.RemoveAll(dir)
}

func compile(ctx context.Context, arch Arch, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cgo := "CGO_ENABLED=0"
	if slices.Contains(args, "-race") {
		cgo = "CGO_ENABLED=1" // for the race detector
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

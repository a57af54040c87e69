//go:build linux

package vm

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// A Logf reports progress, like (*testing.T).Logf or log.Printf.
type Logf func(format string, args ...any)

// Prepare ensures that the host has the programs needed to boot a VM of the
// architecture. As root it installs missing Debian packages. Otherwise the error names
// the packages to install.
func Prepare(ctx context.Context, arch Arch, logf Logf) error {
	packages := missingPackages(arch)
	if len(packages) == 0 {
		return nil
	}
	install := "apt-get install " + strings.Join(packages, " ")
	if os.Getuid() != 0 {
		return fmt.Errorf("missing Debian packages: run as root: %s", install)
	}
	release, err := lock(ctx, "host")
	if err != nil {
		return err
	}
	defer release()
	packages = missingPackages(arch)
	if len(packages) == 0 {
		return nil
	}
	if err := aptInstall(ctx, packages, logf); err != nil {
		return fmt.Errorf("missing Debian packages: %s: %w", install, err)
	}
	return nil
}

// aptInstall installs packages on the host.
func aptInstall(ctx context.Context, packages []string, logf Logf) error {
	logf("installing %s", strings.Join(packages, " "))
	if _, err := run(ctx, "", "apt-get", "update", "-q"); err != nil {
		return fmt.Errorf("refresh the host's package lists: %w", err)
	}
	args := append([]string{"install", "-q", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300"}, packages...)
	_, err := run(ctx, "", "apt-get", args...)
	return err
}

var hostPrograms = []struct {
	program, debian string
	arch            Arch // needed for VMs of this one only; all when empty
}{
	{program: "qemu-system-x86_64", debian: "qemu-system-x86", arch: AMD64},
	{program: "qemu-system-aarch64", debian: "qemu-system-arm", arch: ARM64},
	{program: "depmod", debian: "kmod"},
	{program: "mkfs.ext4", debian: "e2fsprogs"},
}

func missingPackages(arch Arch) []string {
	var missing []string
	for _, p := range hostPrograms {
		if p.arch != "" && p.arch != arch {
			continue
		}
		if _, err := findProgram(p.program); err != nil {
			missing = append(missing, p.debian)
		}
	}
	return missing
}

// findProgram also looks outside PATH, because an unprivileged user's PATH lacks the
// folders of system programs.
func findProgram(name string) (string, error) {
	path, err := exec.LookPath(name)
	for _, dir := range []string{"/usr/sbin/", "/sbin/"} {
		if err == nil {
			break
		}
		path, err = exec.LookPath(dir + name)
	}
	return path, err
}

// run returns the program's standard output. The error has the last lines of its
// standard error.
func run(ctx context.Context, dir, program string, args ...string) (string, error) {
	path, err := findProgram(program)
	if err != nil {
		return "", fmt.Errorf("find %s, which Debian and its derivatives have: %w", program, err)
	}
	stderr := newTail(4 << 10)
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = dir
	cmd.Env = slices.Concat(os.Environ(), []string{"LC_ALL=C", "DEBIAN_FRONTEND=noninteractive"})
	cmd.Stderr = stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("run %s: %w: %s", program, err, strings.TrimSpace(stderr.String()))
	}
	return string(out), nil
}

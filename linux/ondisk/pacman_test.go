//go:build linux

package ondisk

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPacman(t *testing.T) {
	root := merged(t, map[string]string{
		"/var/lib/pacman/local/ALPM_DB_VERSION":            "9\n",
		"/var/lib/pacman/local/linux-6.12.1.arch1-1/desc":  "%NAME%\nlinux\n\n%VERSION%\n6.12.1.arch1-1\n\n",
		"/var/lib/pacman/local/linux-6.12.1.arch1-1/files": "%FILES%\nusr/\nusr/lib/modules/1/kernel/dummy.ko.zst\n\n%BACKUP%\n",
		"/var/lib/pacman/local/broken-1-1/files":           "%FILES%\nopt/broken.ko\n",
	})
	p := newPacman(root)
	for path, want := range map[string]string{
		"/usr/lib/modules/1/kernel/dummy.ko.zst": "linux",
		"/opt/broken.ko":                         "",
		"/opt/other.ko":                          "",
	} {
		owner, err := p.owner(t.Context(), path)
		require.NoError(t, err)
		require.Equal(t, want, owner, path)
	}
	owner, err := newPacman(t.TempDir()).owner(t.Context(), "/opt/other.ko")
	require.NoError(t, err)
	require.Empty(t, owner)
}

// TestPacmanOfThisHost installs a package with pacman and compares the owner of its file
// with pacman's own answer.
func TestPacmanOfThisHost(t *testing.T) {
	for _, program := range []string{"pacman", "tar"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("no %s on this host (Debian's package pacman-package-manager)", program)
		}
	}
	if os.Geteuid() != 0 {
		t.Skip("pacman installs for root only")
	}
	build, root := t.TempDir(), t.TempDir()
	write(t, build, map[string]string{
		".PKGINFO":                   "pkgname = kmodquery-test\npkgver = 1-1\npkgdesc = test\nsize = 1\narch = any\n",
		"usr/lib/modules/1/dummy.ko": "dummy",
	})
	pack := filepath.Join(t.TempDir(), "kmodquery-test-1-1-any.pkg.tar")
	run(t, "tar", "-C", build, "-cf", pack, ".PKGINFO", "usr")
	config := filepath.Join(t.TempDir(), "pacman.conf")
	require.NoError(t, os.WriteFile(config, []byte("[options]\nArchitecture = any\nSigLevel = Never\nLocalFileSigLevel = Never\n"), 0o644))
	require.NoError(t, os.MkdirAll(filepath.Join(root, "/var/lib/pacman"), 0o755))
	pacman := []string{"--config", config, "--root", root, "--dbpath", filepath.Join(root, "/var/lib/pacman"), "--noconfirm"}
	run(t, "pacman", append(pacman, "-U", "--noscriptlet", "--hookdir", t.TempDir(), pack)...)
	answer := run(t, "pacman", append(pacman, "-Qqo", filepath.Join(root, "/usr/lib/modules/1/dummy.ko"))...)
	require.Equal(t, "kmodquery-test", strings.TrimSpace(answer))

	owner, err := newPacman(root).owner(t.Context(), "/usr/lib/modules/1/dummy.ko")
	require.NoError(t, err)
	require.Equal(t, "kmodquery-test", owner)
}

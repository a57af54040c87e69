//go:build linux

package ondisk

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestDpkg(t *testing.T) {
	root := merged(t, map[string]string{
		"/var/lib/dpkg/info/linux-image-1.list":   "/.\n/lib/modules/1/kernel/a.ko\n/usr/lib/modules/1/kernel/b.ko.xz\n/lib/modules/1/kernel\n/usr/share/doc/x.kombu\n",
		"/var/lib/dpkg/info/vendor:amd64.list":    "/usr/lib/modules/1/kernel/b.ko.xz\n/opt/vendor/c.ko.zst\n",
		"/var/lib/dpkg/info/linux-image-1.md5sum": "/opt/not/a/list.ko\n",
		"/var/lib/dpkg/diversions": "/usr/lib/modules/1/kernel/b.ko.xz\n/usr/lib/modules/1/kernel/b.ko.xz.distrib.ko\nvendor\n" +
			"/opt/vendor/c.ko.zst\n/opt/vendor/c-local.ko.zst\n:\n",
	})
	d := newDpkg(root)
	for path, want := range map[string]string{
		"/usr/lib/modules/1/kernel/a.ko":               "linux-image-1",
		"/usr/lib/modules/1/kernel/b.ko.xz":            "vendor:amd64",
		"/usr/lib/modules/1/kernel/b.ko.xz.distrib.ko": "linux-image-1",
		"/opt/vendor/c.ko.zst":                         "",
		"/opt/vendor/c-local.ko.zst":                   "vendor:amd64",
		"/opt/not/a/list.ko":                           "",
		"":                                             "",
	} {
		owner, err := d.owner(t.Context(), path)
		require.NoError(t, err)
		require.Equal(t, want, owner, path)
	}

	write(t, root, map[string]string{"/var/lib/dpkg/info/new.list": "/opt/new.ko\n"})
	require.NoError(t, os.Chtimes(filepath.Join(root, dpkgInfo), time.Now(), time.Now().Add(time.Hour)))
	owner, err := d.owner(t.Context(), "/opt/new.ko")
	require.NoError(t, err)
	require.Equal(t, "new", owner)

	owner, err = newDpkg(t.TempDir()).owner(t.Context(), "/opt/new.ko")
	require.NoError(t, err)
	require.Empty(t, owner)
}

func TestDpkgWithoutUsrmerge(t *testing.T) {
	root := t.TempDir()
	write(t, root, map[string]string{"/var/lib/dpkg/info/old.list": "/lib/modules/1/a.ko\n", "/lib/modules/1/a.ko": ""})
	owner, err := newDpkg(root).owner(t.Context(), "/lib/modules/1/a.ko")
	require.NoError(t, err)
	require.Equal(t, "old", owner)
}

// TestDpkgOfThisHost installs a package with dpkg and compares the owner of its files with
// dpkg's own answer.
func TestDpkgOfThisHost(t *testing.T) {
	for _, program := range []string{"dpkg", "dpkg-deb", "dpkg-query"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("no %s on this host (Debian's package dpkg)", program)
		}
	}
	if os.Geteuid() != 0 {
		t.Skip("dpkg installs for root only")
	}
	build, root := t.TempDir(), merged(t, nil)
	require.NoError(t, os.Chmod(build, 0o755)) // dpkg-deb requires this mode
	write(t, build, map[string]string{
		"/DEBIAN/control":         "Package: kmodquery-test\nVersion: 1\nArchitecture: all\nMaintainer: nobody <nobody@localhost>\nDescription: test\n",
		"/lib/modules/1/dummy.ko": "dummy",
	})
	write(t, root, map[string]string{"/var/lib/dpkg/status": "", "/var/lib/dpkg/info/format": "1\n", "/var/lib/dpkg/updates/.keep": "", "/var/log/dpkg.log": ""})
	require.NoError(t, os.Remove(filepath.Join(root, "/var/lib/dpkg/updates/.keep")))
	deb := filepath.Join(t.TempDir(), "test.deb")
	run(t, "dpkg-deb", "--root-owner-group", "--build", build, deb)
	run(t, "dpkg", "--root="+root, "--log=/dev/null", "--force-not-root,script-chrootless", "--install", deb)
	require.FileExists(t, filepath.Join(root, "/usr/lib/modules/1/dummy.ko"))
	answer := run(t, "dpkg-query", "--admindir="+filepath.Join(root, "/var/lib/dpkg"), "--search", "/lib/modules/1/dummy.ko")
	require.Equal(t, "kmodquery-test: /lib/modules/1/dummy.ko", strings.TrimSpace(answer))

	owner, err := newDpkg(root).owner(t.Context(), "/usr/lib/modules/1/dummy.ko")
	require.NoError(t, err)
	require.Equal(t, "kmodquery-test", owner)
}

func run(t *testing.T, program string, args ...string) string {
	t.Helper()
	out, err := exec.Command(program, args...).CombinedOutput()
	require.NoError(t, err, "%s %v: %s", program, args, out)
	return string(out)
}

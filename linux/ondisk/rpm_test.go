//go:build linux

package ondisk

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const spec = `Name: kmodquery-test
Version: 1
Release: 2
Summary: test
License: none
BuildArch: noarch
%description
test
%install
mkdir -p %{buildroot}/usr/lib/modules/1 %{buildroot}/lib/modules/1
echo dummy > %{buildroot}/usr/lib/modules/1/dummy.ko
echo old > %{buildroot}/lib/modules/1/old.ko
%files
/usr/lib/modules/1/dummy.ko
/lib/modules/1/old.ko
`

// TestRPMOfThisHost installs a package with rpm and queries its owner.
func TestRPMOfThisHost(t *testing.T) {
	for _, program := range []string{"rpm", "rpmbuild"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("no %s on this host (Debian's package rpm)", program)
		}
	}
	if os.Geteuid() != 0 {
		t.Skip("rpm installs for root only")
	}
	build, root := t.TempDir(), merged(t, nil)
	write(t, build, map[string]string{"/test.spec": spec})
	run(t, "rpmbuild", "--quiet", "--define", "_topdir "+build, "-bb", filepath.Join(build, "test.spec"))
	database := filepath.Join(root, "/usr/lib/sysimage/rpm")
	require.NoError(t, os.MkdirAll(database, 0o755))
	run(t, "rpm", "--root", root, "--dbpath", "/usr/lib/sysimage/rpm", "--nodeps", "--install",
		filepath.Join(build, "RPMS/noarch/kmodquery-test-1-2.noarch.rpm"))

	r := newRPM(root)
	for range 2 { // the second answer comes from the cache
		owner, err := r.owner(t.Context(), "/usr/lib/modules/1/dummy.ko")
		require.NoError(t, err)
		require.Equal(t, "kmodquery-test-1-2.noarch", owner)
		owner, err = r.owner(t.Context(), "/usr/lib/modules/1/old.ko") // the package has it in /lib
		require.NoError(t, err)
		require.Equal(t, "kmodquery-test-1-2.noarch", owner)
		owner, err = r.owner(t.Context(), "/opt/nobody's.ko")
		require.NoError(t, err)
		require.Empty(t, owner)
		r.program = "/bin/false"
	}

	// rpm also says that there is no such file after it failed to open its database.
	require.NoError(t, os.WriteFile(filepath.Join(database, "rpmdb.sqlite"), []byte("damaged"), 0o644))
	_, err := newRPM(root).owner(t.Context(), "/opt/nobody's.ko")
	require.ErrorContains(t, err, "error: ")
}

func TestRPM(t *testing.T) {
	r := newRPM(t.TempDir())
	owner, err := r.owner(t.Context(), "/opt/a.ko")
	require.NoError(t, err)
	require.Empty(t, owner, "there is no rpm database")

	root := t.TempDir()
	write(t, root, map[string]string{"/var/lib/rpm/rpmdb.sqlite": "", "/bin/rpm": "#!/bin/sh\necho 'error: cannot open Packages' >&2\necho more\nexit 1\n"})
	require.NoError(t, os.Chmod(filepath.Join(root, "/bin/rpm"), 0o755))
	r = newRPM(root)
	r.program = filepath.Join(root, "/bin/rpm")
	_, err = r.owner(t.Context(), "/opt/a.ko")
	require.EqualError(t, err, "ask rpm for the owner of /opt/a.ko: exit status 1: error: cannot open Packages")

	for stderr, isKnown := range map[string]bool{
		"error: file /opt/b.ko: No such file or directory":                                                       true,
		"file /opt/b.ko is not owned by any package":                                                             true,
		"error: cannot open Packages index using sqlite - No such file or directory (2)":                         false,
		"error: cannot open Packages database in /var/lib/rpm\nerror: file /opt/b.ko: No such file or directory": false,
		"error: file /opt/c.ko: No such file or directory":                                                       false,
	} {
		write(t, root, map[string]string{"/bin/rpm": "#!/bin/sh\necho '" + stderr + "' >&2\nexit 1\n"})
		r := newRPM(root)
		r.program = filepath.Join(root, "/bin/rpm")
		owner, err := r.owner(t.Context(), "/opt/b.ko")
		require.Empty(t, owner)
		require.Equal(t, isKnown, err == nil, "%s: %v", stderr, err)
	}

	r.program = filepath.Join(root, "/bin/nosuch")
	owner, err = r.owner(t.Context(), "/opt/a.ko")
	require.NoError(t, err)
	require.Empty(t, owner)

	// rpm waits for a lock.
	write(t, root, map[string]string{"/bin/rpm": "#!/bin/sh\nexec sleep 60\n"})
	r.program = filepath.Join(root, "/bin/rpm")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = r.owner(ctx, "/opt/a.ko")
	require.Error(t, err)
}

// An attacker may choose a module's path, and rpm executes the value of --eval=.
func TestRPMDoesNotTreatPathsAsOptions(t *testing.T) {
	root := t.TempDir()
	arguments := filepath.Join(root, "arguments")
	write(t, root, map[string]string{
		"/var/lib/rpm/rpmdb.sqlite": "",
		"/bin/rpm":                  "#!/bin/sh\nprintf '%s\\n' \"$@\" >>'" + arguments + "'\necho owner-1\n",
	})
	require.NoError(t, os.Chmod(filepath.Join(root, "/bin/rpm"), 0o755))
	r := newRPM(root)
	r.program = filepath.Join(root, "/bin/rpm")
	for _, path := range []string{"--eval=%{lua:os.execute('id')}", "--pipe=id", "-E%(id)", "%(id).ko", "memfd:x", "a.ko", "./a.ko", ""} {
		owner, err := r.owner(t.Context(), path)
		require.ErrorIs(t, err, errNotAbsolute, path)
		require.Empty(t, owner)
	}
	require.NoFileExists(t, arguments, "rpm does not run for a path that is not absolute")

	owner, err := r.owner(t.Context(), "/--eval=id")
	require.NoError(t, err)
	require.Equal(t, "owner-1", owner)
	given, err := os.ReadFile(arguments)
	require.NoError(t, err)
	require.Regexp(t, "\n--\n/--eval=id\n$", string(given))
}

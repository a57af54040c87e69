//go:build linux

package ondisk

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
)

// mountSilent mounts a FUSE file system whose server never answers, until free is called.
func mountSilent(t *testing.T, point string) (free func()) {
	t.Helper()
	fuse, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("a file system that hangs takes root and /dev/fuse: %v", err)
	}
	isFree := false
	free = func() {
		if !isFree {
			isFree = true
			require.NoError(t, unix.Close(fuse)) // all requests fail
		}
	}
	t.Cleanup(free)
	require.NoError(t, os.MkdirAll(point, 0o755))
	if err := unix.Mount("silent", point, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fuse)); err != nil {
		free()
		t.Skipf("mounting FUSE takes root: %v", err)
	}
	t.Cleanup(func() { require.NoError(t, unix.Unmount(point, unix.MNT_DETACH)) })
	return free
}

// No look-up touches a file system that is known to be served by a program.
func TestFileOnFUSEIsNotTouched(t *testing.T) {
	root := t.TempDir()
	const folder = "/lib/modules/" + release
	write(t, root, map[string]string{folder + "/modules.dep": "remote/a.ko:\n"})
	mountSilent(t, filepath.Join(root, folder, "remote"))
	d := New(root, release)
	d.lookups.Timeout = 24 * time.Hour
	const path = folder + "/remote/a.ko"
	require.Equal(t, kmodquery.ModuleFile{Path: path, Missing: "sha256,signer"}, d.File(t.Context(), kmodquery.Module{Name: "a"}))
	m := kmodquery.Module{Name: "b", Path: path, Loaded: &kmodquery.LoadedImage{File: &kmodquery.FileID{}}}
	require.Equal(t, kmodquery.ModuleFile{Path: path, Missing: "sha256,signer,package"}, d.File(t.Context(), m))
}

// A file system that hangs although its mount does not show it holds up a query once, and
// four look-ups at most.
func TestFileSystemThatHangsHoldsUpFewLookups(t *testing.T) {
	root := t.TempDir()
	write(t, root, map[string]string{"/opt/f.ko": "f", "/lib/modules/x": ""})
	free := mountSilent(t, filepath.Join(root, "silent"))
	require.NoError(t, os.Symlink(filepath.Join(root, "silent"), filepath.Join(root, "/lib/modules", release)))
	d := New(root, release)
	d.owners = nil
	unknown := kmodquery.ModuleFile{Missing: "path,sha256,signer,package"}
	hang := func(name string) { // the look-up of a module
		d.lookups.Timeout = 50 * time.Millisecond
		require.Equal(t, unknown, d.File(t.Context(), kmodquery.Module{Name: name}))
		d.lookups.Timeout = 24 * time.Hour
		require.Equal(t, unknown, d.File(t.Context(), kmodquery.Module{Name: name}), "it is not looked up again")
	}
	f := loadedFrom(t, root, "/opt/f.ko")
	want := kmodquery.ModuleFile{Path: "/opt/f.ko", SHA256: sum("f")}
	for _, name := range []string{"a", "b", "c"} {
		hang(name)
		require.Equal(t, want, d.File(t.Context(), f))
	}
	hang("d")
	require.Equal(t, unknown, d.File(t.Context(), kmodquery.Module{Name: "e"}))
	require.Equal(t, kmodquery.ModuleFile{Path: "/opt/f.ko", Missing: "sha256,signer,package"}, d.File(t.Context(), f))

	free()
	require.Eventually(t, func() bool { return d.lookups.Running() == 0 }, time.Minute, time.Millisecond)
	require.Equal(t, want, d.File(t.Context(), f))
}

// Opening a pipe in the place of an index or a list would block.
func TestPipesInPlaceOfIndexesAreNotOpened(t *testing.T) {
	root := t.TempDir()
	const folder = "/lib/modules/" + release
	for _, path := range []string{folder + "/modules.dep", dpkgInfo + "/a.list", "/var/lib/dpkg/diversions", pacmanLocal + "/a/files", pacmanLocal + "/b/desc"} {
		require.NoError(t, os.MkdirAll(filepath.Join(root, filepath.Dir(path)), 0o755))
		require.NoError(t, unix.Mkfifo(filepath.Join(root, path), 0o600))
	}
	write(t, root, map[string]string{pacmanLocal + "/b/files": "opt/b.ko\n", "/opt/a.ko": "a"})
	d := New(root, release)
	d.lookups.Timeout = 24 * time.Hour
	require.Equal(t, kmodquery.ModuleFile{Missing: "path,sha256,signer,package"}, d.File(t.Context(), kmodquery.Module{Name: "a"}))
	require.Equal(t, kmodquery.ModuleFile{Path: "/opt/a.ko", SHA256: sum("a"), Missing: "package"},
		d.File(t.Context(), loadedFrom(t, root, "/opt/a.ko")))
}

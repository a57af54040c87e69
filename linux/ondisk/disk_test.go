//go:build linux

package ondisk

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
)

const release = "6.1.0-9-test"

// write creates files below a folder.
func write(t *testing.T, root string, files map[string]string) {
	t.Helper()
	for path, content := range files {
		path = filepath.Join(root, path)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
	}
}

// merged returns a root whose /lib is a link into /usr, as on most hosts.
func merged(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(root, "usr/lib"), 0o755))
	require.NoError(t, os.Symlink("usr/lib", filepath.Join(root, "lib")))
	write(t, root, files)
	return root
}

func sum(text string) string {
	digest := sha256.Sum256([]byte(text))
	return hex.EncodeToString(digest[:])
}

func TestFile(t *testing.T) {
	const folder = "/usr/lib/modules/" + release
	root := merged(t, map[string]string{
		folder + "/modules.dep": "kernel/drivers/net/dummy.ko.xz:\n" +
			"kernel/sound/snd-pcm.ko: kernel/sound/snd-timer.ko kernel/sound/snd.ko\n" +
			"updates/dkms/zfs.ko.zst: kernel/x.ko\n" +
			"/lib/modules/elsewhere/far.ko:\n" +
			"kernel/dummy.ko:\nno module\nkernel/x.txt:\n",
		folder + "/kernel/drivers/net/dummy.ko.xz": "dummy",
		folder + "/kernel/sound/snd-pcm.ko":        "pcm",
		"/opt/evil.ko":                             "evil",
		"/var/lib/dpkg/info/linux-image.list":      "/lib/modules/" + release + "/kernel/drivers/net/dummy.ko.xz\n",
	})
	d := New(root, release)
	d.owners = d.owners[:1]
	for _, test := range []struct {
		module kmodquery.Module
		want   kmodquery.ModuleFile
	}{
		{kmodquery.Module{Name: "dummy"}, kmodquery.ModuleFile{Path: folder + "/kernel/drivers/net/dummy.ko.xz", SHA256: sum("dummy"),
			Package: "linux-image"}},
		{loadedFrom(t, root, "/lib/modules/"+release+"/kernel/drivers/net/dummy.ko.xz"),
			kmodquery.ModuleFile{Path: "/lib/modules/" + release + "/kernel/drivers/net/dummy.ko.xz", SHA256: sum("dummy"), Package: "linux-image"}},
		{kmodquery.Module{Name: "snd_pcm"}, kmodquery.ModuleFile{Path: folder + "/kernel/sound/snd-pcm.ko", SHA256: sum("pcm")}},
		{kmodquery.Module{Name: "snd-pcm"}, kmodquery.ModuleFile{Path: folder + "/kernel/sound/snd-pcm.ko", SHA256: sum("pcm")}},
		{loadedFrom(t, root, "/opt/evil.ko"), kmodquery.ModuleFile{Path: "/opt/evil.ko", SHA256: sum("evil")}},
		{kmodquery.Module{Name: "zfs"}, kmodquery.ModuleFile{Path: folder + "/updates/dkms/zfs.ko.zst", Missing: "sha256,signer"}},
		{kmodquery.Module{Name: "far"}, kmodquery.ModuleFile{Path: "/usr/lib/modules/elsewhere/far.ko", Missing: "sha256,signer"}},
		{kmodquery.Module{Name: "nosuch"}, kmodquery.ModuleFile{Missing: "path,sha256,signer,package"}},
		{kmodquery.Module{}, kmodquery.ModuleFile{Missing: "path,sha256,signer,package"}},
	} {
		got := d.File(t.Context(), test.module)
		if test.want.SHA256 == sum("dummy") { // the file is not compressed, despite its name
			got.Missing = ""
		}
		require.Equal(t, test.want, got)
	}

	// depmod has run again.
	write(t, root, map[string]string{folder + "/modules.dep": "kernel/new.ko:\n"})
	require.NoError(t, os.Chtimes(filepath.Join(root, folder, "modules.dep"), time.Now(), time.Now().Add(time.Hour)))
	require.Empty(t, d.File(t.Context(), kmodquery.Module{Name: "dummy"}).Path)
	require.Equal(t, folder+"/kernel/new.ko", d.File(t.Context(), kmodquery.Module{Name: "new"}).Path)

	require.Equal(t, kmodquery.ModuleFile{Missing: "path,sha256,signer,package"},
		New(t.TempDir(), release).File(t.Context(), kmodquery.Module{Name: "dummy"}))
}

// loadedFrom returns a module that the kernel loaded from the file that is at a path now.
func loadedFrom(t *testing.T, root, path string) kmodquery.Module {
	t.Helper()
	return kmodquery.Module{Name: "dummy", Path: path, Loaded: &kmodquery.LoadedImage{File: fileID(t, filepath.Join(root, path))}}
}

// fileID returns a file's identity as the kernel reports it.
func fileID(t *testing.T, path string) *kmodquery.FileID {
	t.Helper()
	var stat unix.Stat_t
	require.NoError(t, unix.Stat(path, &stat))
	return &kmodquery.FileID{Device: int64(stat.Dev), Inode: int64(stat.Ino), Size: stat.Size, Ctime: stat.Ctim.Sec}
}

// Something else may have replaced a module's file.
func TestFileThatWasReplacedIsNotRead(t *testing.T) {
	root := t.TempDir()
	const folder = "/lib/modules/" + release
	write(t, root, map[string]string{"secret": "secret", folder + "/modules.dep": "pipe.ko:\nlink.ko:\nfolder.ko:\nhuge.ko:\ngone.ko:\n"})
	in := filepath.Join(root, folder)
	require.NoError(t, unix.Mkfifo(filepath.Join(in, "pipe.ko"), 0o600))
	require.NoError(t, os.Symlink(filepath.Join(root, "secret"), filepath.Join(in, "link.ko")))
	require.NoError(t, os.Mkdir(filepath.Join(in, "folder.ko"), 0o755))
	write(t, root, map[string]string{folder + "/huge.ko": ""})
	require.NoError(t, os.Truncate(filepath.Join(in, "huge.ko"), maxFile+1))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for _, name := range []string{"pipe", "link", "folder", "huge", "gone"} {
		path := folder + "/" + name + ".ko"
		require.Equal(t, kmodquery.ModuleFile{Path: path, Missing: "sha256,signer"}, New(root, release).File(ctx, kmodquery.Module{Name: name}))
		m := loadedFrom(t, root, "secret")
		m.Path = path
		require.Equal(t, kmodquery.ModuleFile{Path: path, Missing: "sha256,signer,package"}, New(root, release).File(ctx, m))
	}
	require.NoError(t, ctx.Err())
}

// The file at a module's path may be another one: changed since, or of another mount namespace.
func TestFileThatIsAnotherIsUnknown(t *testing.T) {
	root := t.TempDir()
	write(t, root, map[string]string{"/opt/a.ko": "honest", "/opt/other.ko": "honest"})
	d := New(root, release)
	d.owners = []owner{ownerOfAll{}}
	want := kmodquery.ModuleFile{Path: "/opt/a.ko", SHA256: sum("honest"), Package: "everything"}
	unknown := kmodquery.ModuleFile{Path: "/opt/a.ko", Missing: "sha256,signer,package"}
	require.Equal(t, want, d.File(t.Context(), loadedFrom(t, root, "/opt/a.ko")))
	for name, change := range map[string]func(m *kmodquery.Module){
		"device":              func(m *kmodquery.Module) { m.Loaded.File.Device++ },
		"inode":               func(m *kmodquery.Module) { m.Loaded.File.Inode++ },
		"size":                func(m *kmodquery.Module) { m.Loaded.File.Size++ },
		"ctime":               func(m *kmodquery.Module) { m.Loaded.File.Ctime++ },
		"another file":        func(m *kmodquery.Module) { m.Loaded.File = fileID(t, filepath.Join(root, "/opt/other.ko")) },
		"other bytes":         func(m *kmodquery.Module) { m.Loaded.ImageSHA256 = sum("evil") },
		"nothing to compare":  func(m *kmodquery.Module) { m.Loaded.File = nil },
		"an earlier recorder": func(m *kmodquery.Module) { m.Loaded = nil },
	} {
		m := loadedFrom(t, root, "/opt/a.ko")
		change(&m)
		require.Equal(t, unknown, d.File(t.Context(), m), name)
	}
	m := loadedFrom(t, root, "/opt/a.ko")
	m.Loaded.ImageSHA256 = sum("honest")
	m.Loaded.File.Ctime++ // such as by a new hard link
	require.Equal(t, want, d.File(t.Context(), m), "the same bytes")
}

// A module that came from memory has a file only if its bytes are in the file that modprobe
// would load.
func TestFileOfAModuleFromMemory(t *testing.T) {
	root := t.TempDir()
	const path = "/lib/modules/" + release + "/a.ko"
	write(t, root, map[string]string{"/lib/modules/" + release + "/modules.dep": "a.ko:\n", path: "honest"})
	d := New(root, release)
	d.owners = []owner{ownerOfAll{}}
	for image, want := range map[string]kmodquery.ModuleFile{
		sum("honest"): {Path: path, SHA256: sum("honest"), Package: "everything"},
		sum("evil"):   {Missing: "path,sha256,signer,package"},
		"":            {Missing: "path,sha256,signer,package"},
	} {
		m := kmodquery.Module{Name: "a", Loaded: &kmodquery.LoadedImage{ImageSHA256: image}}
		require.Equal(t, want, d.File(t.Context(), m))
	}
}

// The events of the load have the signer, whatever became of the file.
func TestSignerOfTheLoadIsKnown(t *testing.T) {
	for _, signer := range []string{"Debian Secure Boot CA", ""} {
		m := kmodquery.Module{Name: "nbd", Path: "/memfd:x", Loaded: &kmodquery.LoadedImage{Signer: &signer}}
		require.Equal(t, kmodquery.ModuleFile{Path: "/memfd:x", Signer: signer, Missing: "sha256,package"},
			New(t.TempDir(), release).File(t.Context(), m))
	}
}

// A path without its beginning is tried from the root, and only the file that was loaded is
// taken. No relative path is passed to a package manager.
func TestFileOfPathWithoutItsBeginning(t *testing.T) {
	root := t.TempDir()
	write(t, root, map[string]string{"memfd:x": "other", "--eval=x": "other", "modules/a.ko": "other"})
	d := New(root, release)
	d.owners = []owner{ownerOfAll{}}
	for _, path := range []string{"memfd:x", "--eval=x", "modules/a.ko"} {
		m := loadedFrom(t, root, path)
		require.Equal(t, kmodquery.ModuleFile{Path: "/" + path, SHA256: sum("other"), Package: "everything"}, d.File(t.Context(), m))
		m.Loaded.File.Inode++
		require.Equal(t, kmodquery.ModuleFile{Path: path, Missing: "path,sha256,signer,package"}, d.File(t.Context(), m))
	}
}

// ownerOfAll is an owner with a package that has every file.
type ownerOfAll struct{}

func (ownerOfAll) owner(_ context.Context, path string) (string, error) {
	if !filepath.IsAbs(path) {
		panic("a package manager was asked for a relative path: " + path)
	}
	return "everything", nil
}

func TestParseModulesDepIsBounded(t *testing.T) {
	require.Empty(t, parseModulesDep(strings.NewReader(strings.Repeat("x", maxLine*2))))
	require.Equal(t, map[string]string{"a_b": "k/a-b.ko.gz"}, parseModulesDep(strings.NewReader("k/a-b.ko.gz:\n.ko:\nk/.ko:\n:\n")))
}

// The autostart table asks for the module's file at a path, and for the package of a file of
// the configuration.
func TestFileAtAndPackageOfConfiguration(t *testing.T) {
	const list = "/etc/modules-load.d/a.conf\n/usr/share/doc/a\n/lib/modprobe.d/b.conf\n/lib/modules/1/a.ko\n"
	root := merged(t, map[string]string{"/usr/lib/modules/1/a.ko": "a", "/var/lib/dpkg/info/kmod.list": list})
	d := New(root, release)
	d.owners = d.owners[:1]
	require.Equal(t, kmodquery.ModuleFile{Path: "/usr/lib/modules/1/a.ko", SHA256: sum("a"), Package: "kmod"}, d.FileAt(t.Context(), "/usr/lib/modules/1/a.ko"))
	require.Equal(t, kmodquery.ModuleFile{Path: "/no.ko", Missing: "sha256,signer"}, d.FileAt(t.Context(), "/no.ko"))
	for path, want := range map[string]string{"/etc/modules-load.d/a.conf": "kmod", "/usr/lib/modprobe.d/b.conf": "kmod", "/etc/modules": ""} {
		name, isKnown := d.Package(t.Context(), path)
		require.True(t, isKnown)
		require.Equal(t, want, name, path)
	}
	d.owners = []owner{failingOwner{}}
	_, isKnown := d.Package(t.Context(), "/etc/modules")
	require.False(t, isKnown)
}

type failingOwner struct{}

func (failingOwner) owner(context.Context, string) (string, error) { return "", errCut }

package ondisk

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

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
		{kmodquery.Module{Name: "dummy", Path: "/lib/modules/" + release + "/kernel/drivers/net/dummy.ko.xz"},
			kmodquery.ModuleFile{Path: "/lib/modules/" + release + "/kernel/drivers/net/dummy.ko.xz", SHA256: sum("dummy"), Package: "linux-image"}},
		{kmodquery.Module{Name: "snd_pcm"}, kmodquery.ModuleFile{Path: folder + "/kernel/sound/snd-pcm.ko", SHA256: sum("pcm")}},
		{kmodquery.Module{Name: "snd-pcm"}, kmodquery.ModuleFile{Path: folder + "/kernel/sound/snd-pcm.ko", SHA256: sum("pcm")}},
		{kmodquery.Module{Name: "dummy", Path: "/opt/evil.ko"}, kmodquery.ModuleFile{Path: "/opt/evil.ko", SHA256: sum("evil")}},
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

// Something else may have replaced a module's file.
func TestFileThatWasReplacedIsNotRead(t *testing.T) {
	root := t.TempDir()
	write(t, root, map[string]string{"secret": "secret"})
	require.NoError(t, syscall.Mkfifo(filepath.Join(root, "pipe.ko"), 0o600))
	require.NoError(t, os.Symlink("secret", filepath.Join(root, "link.ko")))
	require.NoError(t, os.Mkdir(filepath.Join(root, "folder.ko"), 0o755))
	write(t, root, map[string]string{"huge.ko": ""})
	require.NoError(t, os.Truncate(filepath.Join(root, "huge.ko"), maxFile+1))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for _, name := range []string{"pipe.ko", "link.ko", "folder.ko", "huge.ko", "gone.ko"} {
		file := New(root, release).File(ctx, kmodquery.Module{Name: "m", Path: "/" + name})
		require.Equal(t, kmodquery.ModuleFile{Path: "/" + name, Missing: "sha256,signer"}, file)
	}
	require.NoError(t, ctx.Err())
}

// A relative path is neither opened below the root nor passed to a package manager.
func TestFileOfRelativePathIsUnknown(t *testing.T) {
	root := t.TempDir()
	write(t, root, map[string]string{"memfd:x": "other", "--eval=x": "other", "modules/a.ko": "other"})
	d := New(root, release)
	d.owners = []owner{ownerOfAll{}}
	for _, path := range []string{"memfd:x", "--eval=x", "modules/a.ko"} {
		require.Equal(t, kmodquery.ModuleFile{Path: path, Missing: "sha256,signer,package"},
			d.File(t.Context(), kmodquery.Module{Name: "a", Path: path}))
	}
	require.Equal(t, "everything", d.File(t.Context(), kmodquery.Module{Name: "a", Path: "/modules/a.ko"}).Package)
}

// ownerOfAll is an owner with a package that has every file.
type ownerOfAll struct{}

func (ownerOfAll) owner(context.Context, string) (string, error) { return "everything", nil }

func TestParseModulesDepIsBounded(t *testing.T) {
	require.Empty(t, parseModulesDep(strings.NewReader(strings.Repeat("x", maxLine*2))))
	require.Equal(t, map[string]string{"a_b": "k/a-b.ko.gz"}, parseModulesDep(strings.NewReader("k/a-b.ko.gz:\n.ko:\nk/.ko:\n:\n")))
}

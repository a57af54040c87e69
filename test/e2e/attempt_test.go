//go:build linux

package e2e

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery/test/vm/guest"
)

// An attempt is a way to pass a module to the kernel.
type attempt struct {
	name string
	// prepare creates the module's image or file.
	prepare func(t *testing.T, module string) *handed
	// events are the names of the events of a successful attempt.
	events []string
	origin string
}

// handed is the image or file that the kernel gets.
type handed struct {
	bytes []byte
	file  *os.File // nil for an image in memory

	path, filesystem string
	flags            int
	stat             unix.Stat_t
}

// load makes the attempt.
func (h *handed) load(params string) error {
	if h.file == nil {
		return guest.LoadImage(h.bytes, params)
	}
	return unix.FinitModule(int(h.file.Fd()), params, h.flags)
}

var (
	byFile   = []string{"security_kernel_read_file", "module_load", "finit_module"}
	byMemory = []string{"security_kernel_load_data", "module_load", "init_module"}
)

// attempts are the ways that events distinguish.
var attempts = []attempt{
	{"a file", func(t *testing.T, module string) *handed {
		return handFile(t, image(t, module), "/run", "by file.ko", "tmpfs")
	}, byFile, "file"},
	{"a file below a mount", func(t *testing.T, module string) *handed {
		dir := t.TempDir()
		mount(t, dir, "ramfs", "")
		below := filepath.Join(dir, "a", "b")
		require.NoError(t, os.MkdirAll(below, 0o700))
		return handFile(t, image(t, module), below, "x.ko", "ramfs")
	}, byFile, "file"},
	{"a file on ext4", func(t *testing.T, module string) *handed {
		dir := t.TempDir()
		unmount, err := guest.MountImage(guestDisk, "ext4", dir)
		require.NoError(t, err)
		// Its file is closed by then: cleanups run last first.
		t.Cleanup(func() { require.NoError(t, unmount()) })
		return handFile(t, image(t, module), dir, module+".ko", "ext4")
	}, byFile, "file"},
	{"a file in the lower layer of an overlayfs", func(t *testing.T, module string) *handed {
		merged := overlay(t, func(lower string) {
			require.NoError(t, os.WriteFile(filepath.Join(lower, module+".ko"), image(t, module), 0o600))
		})
		return handPath(t, image(t, module), filepath.Join(merged, module+".ko"), "overlay")
	}, byFile, "file"},
	{"a file in the upper layer of an overlayfs", func(t *testing.T, module string) *handed {
		return handFile(t, image(t, module), overlay(t, func(string) {}), module+".ko", "overlay")
	}, byFile, "file"},
	{"a deleted file", func(t *testing.T, module string) *handed {
		h := handFile(t, image(t, module), "/run", "gone.ko", "tmpfs")
		require.NoError(t, os.Remove(h.path))
		require.NoError(t, unix.Fstat(int(h.file.Fd()), &h.stat)) // the removal changed its ctime
		return h
	}, byFile, "deleted"},
	{"a file that never had a name", func(t *testing.T, module string) *handed {
		fd, err := unix.Open("/run", unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
		require.NoError(t, err)
		h := handFD(t, image(t, module), fd, "", "tmpfs")
		h.path = "/run/#" + strconv.FormatUint(h.stat.Ino, 10) // the kernel's own name for it
		return h
	}, byFile, "deleted"},
	{"a memfd", func(t *testing.T, module string) *handed {
		fd, err := unix.MemfdCreate("stealth", unix.MFD_CLOEXEC)
		require.NoError(t, err)
		return handFD(t, image(t, module), fd, "/memfd:stealth", "tmpfs")
	}, byFile, "memfd"},
	{"a compressed file", func(t *testing.T, module string) *handed {
		path, err := guest.ModulePath(module)
		require.NoError(t, err)
		if !strings.HasSuffix(path, ".xz") {
			t.Skipf("Debian's %s does not compress its modules", guest.Kernel())
		}
		compressed, err := os.ReadFile(path)
		require.NoError(t, err)
		h := handFile(t, compressed, "/run", module+".ko.xz", "tmpfs")
		h.flags = unix.MODULE_INIT_COMPRESSED_FILE
		return h
	}, byFile, "file"},
	{"memory", func(t *testing.T, module string) *handed {
		return &handed{bytes: image(t, module)}
	}, byMemory, "memory"},
}

// images caches modules of the running kernel, because decompression takes a while.
var images = map[string][]byte{}

// image returns a module of the running kernel. The caller must not change it.
func image(t *testing.T, module string) []byte {
	t.Helper()
	if images[module] == nil {
		content, err := guest.ModuleImage(module)
		require.NoError(t, err)
		images[module] = content
	}
	return images[module]
}

// handFile writes and opens a file to be loaded.
func handFile(t *testing.T, content []byte, dir, name, filesystem string) *handed {
	t.Helper()
	path := filepath.Join(dir, name)
	require.NoError(t, os.WriteFile(path, content, 0o600))
	t.Cleanup(func() { os.Remove(path) })
	return handPath(t, content, path, filesystem)
}

// handPath opens an existing file to be loaded.
func handPath(t *testing.T, content []byte, path, filesystem string) *handed {
	t.Helper()
	h := &handed{bytes: content, file: openFile(t, path), path: path, filesystem: filesystem}
	require.NoError(t, unix.Fstat(int(h.file.Fd()), &h.stat))
	return h
}

// handFD writes the module into an empty file without a name.
func handFD(t *testing.T, content []byte, fd int, path, filesystem string) *handed {
	t.Helper()
	writer := os.NewFile(uintptr(fd), path)
	defer writer.Close()
	_, err := writer.Write(content)
	require.NoError(t, err)
	// finit_module refuses a file that is open for writing.
	h := handPath(t, content, "/proc/self/fd/"+strconv.Itoa(fd), filesystem)
	h.path = path
	return h
}

func openFile(t *testing.T, path string) *os.File {
	t.Helper()
	file, err := os.Open(path)
	require.NoError(t, err)
	t.Cleanup(func() { file.Close() })
	return file
}

// mount mounts a filesystem without a disk until the test ends.
func mount(t *testing.T, dir, kind, options string) {
	t.Helper()
	require.NoError(t, unix.Mount("none", dir, kind, 0, options))
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
}

// overlay mounts an overlayfs after fill has filled its lower layer.
func overlay(t *testing.T, fill func(lower string)) (merged string) {
	t.Helper()
	if _, err := os.Stat("/sys/module/overlay"); err != nil {
		require.NoError(t, guest.LoadImage(image(t, "overlay"), ""))
	}
	// Both layers are in one filesystem, so that stat(2) returns the overlay's own
	// device. The folder's name has no comma, which t.TempDir's may have.
	dir, err := os.MkdirTemp("/run", "overlay")
	require.NoError(t, err)
	mount(t, dir, "tmpfs", "")
	layer := map[string]string{}
	for _, name := range []string{"lower", "upper", "work", "merged"} {
		layer[name] = filepath.Join(dir, name)
		require.NoError(t, os.Mkdir(layer[name], 0o700))
	}
	fill(layer["lower"])
	mount(t, layer["merged"], "overlay",
		"lowerdir="+layer["lower"]+",upperdir="+layer["upper"]+",workdir="+layer["work"])
	return layer["merged"]
}

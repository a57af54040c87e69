//go:build linux

package autostart

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

const release = "6.1.0-test"

// write creates files below a folder. A content that begins with "-> " is a link.
func write(t testing.TB, root string, files map[string]string) {
	t.Helper()
	for path, content := range files {
		path = filepath.Join(root, path)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		if target, isLink := strings.CutPrefix(content, "-> "); isLink {
			require.NoError(t, os.Symlink(target, path))
			continue
		}
		require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
	}
}

// newRoot returns a root whose /lib is a link into /usr, with files.
func newRoot(t testing.TB, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(root, "usr/lib/modules", release), 0o755))
	require.NoError(t, os.Symlink("usr/lib", filepath.Join(root, "lib")))
	write(t, root, files)
	return root
}

// entriesOf returns the entries below a root.
func entriesOf(t testing.TB, root string) []kmodquery.AutostartEntry {
	t.Helper()
	entries, err := New(root, release).Entries(t.Context())
	require.NoError(t, err)
	return entries
}

// A node is one node of an index that encodeIndex writes.
type node struct {
	values   []string
	children map[byte]*node
}

// encodeIndex returns an index in depmod's format, without prefixes.
func encodeIndex(keys map[string]string) string {
	root := &node{}
	for key, value := range keys {
		at := root
		for _, c := range []byte(key) {
			if at.children == nil {
				at.children = map[byte]*node{}
			}
			if at.children[c] == nil {
				at.children[c] = &node{}
			}
			at = at.children[c]
		}
		at.values = append(at.values, value)
	}
	out := binary.BigEndian.AppendUint32(nil, 0xB007F457)
	out = binary.BigEndian.AppendUint32(out, 0x00020001)
	out = append(out, 0, 0, 0, 0)
	at := encodeNode(root, &out)
	binary.BigEndian.PutUint32(out[8:], at)
	return string(out)
}

func encodeNode(n *node, out *[]byte) uint32 {
	var body []byte
	flags := uint32(0)
	if len(n.children) > 0 {
		flags |= nodeChildren
		first, last := byte(127), byte(0)
		for c := range n.children {
			first, last = min(first, c), max(last, c)
		}
		body = append(body, first, last)
		for c := int(first); c <= int(last); c++ {
			offset := uint32(0)
			if child := n.children[byte(c)]; child != nil {
				offset = encodeNode(child, out)
			}
			body = binary.BigEndian.AppendUint32(body, offset)
		}
	}
	if len(n.values) > 0 {
		flags |= nodeValues
		body = binary.BigEndian.AppendUint32(body, uint32(len(n.values)))
		for _, value := range n.values {
			body = append(append(binary.BigEndian.AppendUint32(body, 0), value...), 0)
		}
	}
	offset := uint32(len(*out))
	*out = append(*out, body...)
	return offset | flags
}

// kernel returns the files of depmod for modules, and the aliases that they have.
func kernel(names []string, aliases map[string]string) map[string]string {
	dep, patterns, lines := map[string]string{}, map[string]string{}, ""
	for alias, name := range aliases {
		alias, _ = normalize(alias)
		patterns[alias] = name
	}
	for _, name := range names {
		key := strings.ReplaceAll(name, "-", "_")
		dep[key] = "kernel/" + name + ".ko:"
		lines += dep[key] + "\n"
	}
	const folder = "/usr/lib/modules/" + release
	return map[string]string{
		folder + "/modules.dep":         lines,
		folder + "/modules.dep.bin":     encodeIndex(dep),
		folder + "/modules.alias.bin":   encodeIndex(patterns),
		folder + "/modules.builtin.bin": encodeIndex(map[string]string{"tty": ""}),
	}
}

// moduleFile returns a relocatable file with the section .modinfo.
func moduleFile(modinfo string) []byte {
	var out bytes.Buffer
	names := "\x00.modinfo\x00.shstrtab\x00"
	const header = 64
	h := elf.Header64{Type: uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: 1, Ehsize: header,
		Shoff: uint64(header + len(modinfo) + len(names)), Shentsize: 64, Shnum: 3, Shstrndx: 2}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA], h.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1
	for _, part := range []any{
		h, []byte(modinfo), []byte(names), elf.Section64{},
		elf.Section64{Name: 1, Type: uint32(elf.SHT_PROGBITS), Flags: uint64(elf.SHF_ALLOC), Off: header, Size: uint64(len(modinfo))},
		elf.Section64{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: uint64(header + len(modinfo)), Size: uint64(len(names))},
	} {
		if err := binary.Write(&out, binary.LittleEndian, part); err != nil {
			panic(err)
		}
	}
	return out.Bytes()
}

// needRoot skips a test that runs the host's own programs in a chroot, and says why.
func needRoot(t *testing.T, programs ...string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can change the root of a program")
	}
	for _, program := range programs {
		if _, err := findProgram(program); err != nil {
			t.Skipf("no %s on this host (Debian's packages kmod and systemd)", program)
		}
	}
}

// findProgram finds a program that may not be in PATH.
func findProgram(name string) (string, error) {
	for _, dir := range []string{"/usr/sbin/", "/sbin/", "/usr/lib/systemd/", "/lib/systemd/"} {
		if _, err := os.Stat(dir + name); err == nil {
			return dir + name, nil
		}
	}
	return exec.LookPath(name)
}

// install copies a program of the host and its libraries below a root.
func install(t *testing.T, root, program string) string {
	t.Helper()
	path, err := findProgram(program)
	require.NoError(t, err)
	list, err := exec.Command("ldd", path).Output()
	require.NoError(t, err)
	files := []string{path}
	for field := range strings.FieldsSeq(string(list)) {
		if filepath.IsAbs(field) {
			files = append(files, field)
		}
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		require.NoError(t, err)
		to := filepath.Join(root, file)
		require.NoError(t, os.MkdirAll(filepath.Dir(to), 0o755))
		require.NoError(t, os.WriteFile(to, content, 0o755))
	}
	return path
}

// run runs a program and returns its output, and its error output if it fails.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		require.NoError(t, err, "%s %s: %s%s", name, args, out, exit.Stderr)
	}
	require.NoError(t, err)
	return string(out)
}

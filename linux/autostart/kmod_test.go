//go:build linux

package autostart

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
)

// hostRelease returns the release of the running kernel, whose modules modprobe takes.
func hostRelease(t *testing.T) string {
	t.Helper()
	var name unix.Utsname
	require.NoError(t, unix.Uname(&name))
	return unix.ByteSliceToString(name.Release[:])
}

// A generator writes files of modprobe.d and modules-load.d that are as odd as a host's may
// be.
type generator struct{ *rand.Rand }

func (g generator) pick(from ...string) string { return from[g.IntN(len(from))] }

func (g generator) name() string {
	return g.pick("dummy", "snd-pcm", "snd_pcm", "loop", "hid", "i2c-dev", "no-such", "snd*", "my-alias", "[a-z]id", "bad]", "a[b", "?oop", "tty")
}

func (g generator) modprobe() string {
	var b strings.Builder
	for range g.IntN(8) {
		blank := g.pick(" ", "\t", "  ", " \t ")
		b.WriteString(g.pick("", "", "", " ", "#", "\\\n", "\r"))
		b.WriteString(g.pick("alias", "blacklist", "options", "install", "remove", "softdep", "include", "nonsense", "softdep", "install", "") + blank + g.name())
		for range g.IntN(5) {
			b.WriteString(g.pick(" ", "\t", "  ", " \\\n ", "\\\n", "\\", "\v") + g.pick("x=1", "pre:", "post:", g.name(), "/bin/true;", `"a b"`, "#", "x=1,2"))
		}
		b.WriteString(g.pick("\n", "\n", "\n", "\n\n", "\r\n", "\\\n"))
	}
	return b.String()
}

func (g generator) cmdline() string {
	var b strings.Builder
	for range g.IntN(8) {
		b.WriteString(g.pick("quiet", "snd-pcm.index=1", `loop.max="1 2"`, "modprobe.blacklist=dummy,snd_pcm", "a.b.c=1", "x=1.2", "dummy.debug", `"hid.opt=a b"`, "=", "--", ".x=1", "hid.=1", `lo"op.x=1`, "modprobe.blacklist=") + g.pick(" ", "  ", "\t"))
	}
	return b.String() + "\n"
}

// tree writes files into the folders of a place, some of which mask others.
func (g generator) tree(t *testing.T, root string, folders []string, content func() string) {
	t.Helper()
	for _, folder := range folders {
		require.NoError(t, os.RemoveAll(filepath.Join(root, folder)))
	}
	for range g.IntN(8) {
		path := filepath.Join(root, g.pick(folders...), g.pick("a.conf", "b.conf", "B.conf", "10-x.conf", "zz.conf", "modules.conf", ".hidden.conf", "no.txt", ".conf", "modules.softdep.conf"))
		_ = os.Remove(path)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		switch g.IntN(10) {
		case 0:
			require.NoError(t, os.Symlink("/dev/null", path))
		case 1:
			require.NoError(t, os.WriteFile(filepath.Join(root, "elsewhere"), []byte(content()), 0o644))
			target, err := filepath.Rel(filepath.Dir(path), filepath.Join(root, "elsewhere"))
			require.NoError(t, err)
			require.NoError(t, os.Symlink(target, path))
		default:
			require.NoError(t, os.WriteFile(path, []byte(content()), 0o644))
		}
	}
}

// kmodConfig returns a configuration in the form of modprobe --showconfig.
func kmodConfig(c *config) string {
	var b strings.Builder
	for _, l := range c.blacklist {
		fmt.Fprintf(&b, "blacklist %s\n", l.subject)
	}
	for _, l := range c.installs {
		fmt.Fprintf(&b, "install %s %s\n", l.subject, l.rest)
	}
	for _, l := range c.removes {
		fmt.Fprintf(&b, "remove %s %s\n", l.subject, l.rest)
	}
	for _, l := range c.aliases {
		fmt.Fprintf(&b, "alias %s %s\n", l.subject, l.rest)
	}
	for _, l := range c.options {
		fmt.Fprintf(&b, "options %s %s\n", l.subject, l.rest)
	}
	for _, l := range c.softdeps {
		var parts []string
		b.WriteString("softdep " + l.subject + " ")
		for _, kind := range []string{"pre", "post"} {
			names := ""
			for _, d := range parseSoftdep(l.rest) {
				if d.kind == kind {
					names += " " + d.name
				}
			}
			if names != "" {
				parts = append(parts, kind+":"+names)
			}
		}
		b.WriteString(strings.Join(parts, " ") + "\n")
	}
	return b.String()
}

// TestKmodReadsTheSameConfiguration compares the configuration with that of the host's
// modprobe, on random trees.
func TestKmodReadsTheSameConfiguration(t *testing.T) {
	needRoot(t, "modprobe")
	root := t.TempDir()
	modprobe := install(t, root, "modprobe")
	release := hostRelease(t)
	write(t, root, map[string]string{"/usr/lib/modules/" + release + "/modules.dep": "", "/dev/null": ""})
	require.NoError(t, os.RemoveAll(filepath.Join(root, "dev/null")))
	require.NoError(t, unix.Mknod(filepath.Join(root, "dev/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	seed := rand.Uint64()
	g := generator{rand.New(rand.NewPCG(seed, 0))}
	for round := range 150 {
		g.tree(t, root, []string{"/etc/modprobe.d", "/run/modprobe.d", "/usr/local/lib/modprobe.d", "/lib/modprobe.d"}, g.modprobe)
		write(t, root, map[string]string{"/proc/cmdline": g.cmdline()})
		tree, err := New(root, release).open()
		require.NoError(t, err)
		got := kmodConfig(tree.readConfig())
		want, _, found := strings.Cut(run(t, "chroot", root, modprobe, "--showconfig"), "\n# End of configuration files.")
		require.True(t, found)
		require.Equal(t, joined(want), joined(got), "seed %d, round %d", seed, round)
	}
}

// joined returns a configuration without the blanks before "post:", of which kmod leaves one
// out after a continued line.
func joined(config string) string {
	return strings.ReplaceAll(strings.TrimSpace(config), " post:", "post:")
}

// TestSystemdReadsTheSameFiles compares the names in modules-load.d with those in the files
// that the host's systemd reads, on random trees.
func TestSystemdReadsTheSameFiles(t *testing.T) {
	needRoot(t, "systemd-analyze")
	root := t.TempDir()
	seed := rand.Uint64()
	g := generator{rand.New(rand.NewPCG(seed, 0))}
	list := func() string {
		var b strings.Builder
		for range g.IntN(6) {
			b.WriteString(g.pick("", "", " ", "\t") + g.pick("dummy", "# comment", "; comment", "", "snd-pcm", "a b", "loop # x") + g.pick("\n", "\n", " \n"))
		}
		return b.String()
	}
	for round := range 60 {
		g.tree(t, root, []string{"/etc/modules-load.d", "/run/modules-load.d", "/usr/local/lib/modules-load.d", "/usr/lib/modules-load.d"}, list)
		tree, err := New(root, release).open()
		require.NoError(t, err)
		var got, want []string
		for _, e := range tree.modulesLoadEntries(tree.readConfig()) {
			if !strings.Contains(e.Reason, "takes precedence") && e.Place == kmodquery.PlaceModulesLoad {
				got = append(got, e.Text)
			}
		}
		for line := range strings.Lines(run(t, "systemd-analyze", "--root="+root, "cat-config", "modules-load.d")) {
			if line = strings.TrimSpace(line); line != "" && !strings.ContainsAny(line[:1], "#;") {
				want = append(want, line)
			}
		}
		require.Equal(t, want, got, "seed %d, round %d", seed, round)
	}
}

// TestKmodLoadsTheSame compares which modules a name loads, and by which command, with what
// the host's modprobe would do, on random configurations and with indices that the host's
// depmod wrote.
func TestKmodLoadsTheSame(t *testing.T) {
	needRoot(t, "modprobe", "depmod")
	root := t.TempDir()
	modprobe := install(t, root, "modprobe")
	release := hostRelease(t)
	folder := "/lib/modules/" + release
	for name, modinfo := range map[string]string{
		"loop": "alias=fs-loop\x00alias=block-*\x00", "snd-pcm": "alias=pci:v*d00[0-9]2*\x00", "hid": "alias=pci:v0001*\x00alias=block-7\x00", "dummy": "", "dep1": "", "dep2": "alias=dep-alias\x00",
	} {
		write(t, root, map[string]string{folder + "/kernel/" + name + ".ko": string(moduleFile("name=" + strings.ReplaceAll(name, "-", "_") + "\x00" + modinfo))})
	}
	write(t, root, map[string]string{folder + "/modules.builtin": "kernel/tty.ko\n", folder + "/modules.builtin.modinfo": "tty.alias=char-major-4-*\x00", folder + "/modules.order": "", "/proc/modules": ""})
	run(t, "depmod", "-b", root, release)
	requireSameDep(t, root, folder)
	seed := rand.Uint64()
	g := generator{rand.New(rand.NewPCG(seed, 0))}
	names := []string{"loop", "snd_pcm", "snd-pcm", "hid", "dummy", "fs-loop", "fs_loop", "block-7", "block-8", "pci:v0001d0012", "pci:v0002d0032x", "tty", "char-major-4-64", "no-such", "my-alias", "[a-z]id", "bad]"}
	config := func() string {
		var b strings.Builder
		for range g.IntN(7) {
			b.WriteString(g.pick(
				"alias "+g.pick("my-*", "fs-loop", "block-?", "no-such", "hid")+" "+g.pick("loop", "snd-pcm", "dummy", "nothing"),
				"blacklist "+g.pick("loop", "snd-pcm", "dummy", "hid"),
				"install "+g.pick("loop", "snd*", "no-such", "du?my", "hid")+" /bin/"+g.pick("true", "false"),
				"softdep "+g.pick("loop", "snd-pcm", "h*")+" "+g.pick("pre: dep1", "post: dep-alias", "pre: nothing", "post: nothing", "none"),
			) + "\n")
		}
		return b.String()
	}
	commands := 0
	for round := range 60 {
		g.tree(t, root, []string{"/etc/modprobe.d", "/run/modprobe.d"}, config)
		write(t, root, map[string]string{"/proc/cmdline": g.pick("quiet\n", "modprobe.blacklist=hid\n")})
		tree, err := New(root, release).open()
		require.NoError(t, err)
		c := tree.readConfig()
		require.NoError(t, c.modules.err)
		for range 4 {
			name := names[g.IntN(len(names))]
			var want []string
			// It fails for a module that does not exist, or that is blacklisted.
			out, _ := exec.Command("chroot", root, modprobe, "-b", "-n", "-v", "--", name).Output()
			for line := range strings.Lines(string(out)) {
				if line = strings.TrimSpace(line); !strings.Contains(line, "/dep") && line != "" && !strings.HasPrefix(line, "builtin ") {
					want = append(want, line)
				}
			}
			var got []string
			for _, e := range c.loadEntries(kmodquery.AutostartEntry{}, name, "") {
				require.NotNil(t, e.Effective)
				if *e.Effective == 0 {
					continue
				}
				if e.Reason == "" {
					got = append(got, "insmod "+e.Path)
					continue
				}
				commands++
				got = append(got, "install "+c.first(c.installs, e.Name).rest)
			}
			require.ElementsMatch(t, slices.Compact(slices.Sorted(slices.Values(want))), slices.Compact(slices.Sorted(slices.Values(got))),
				"seed %d, round %d, %s: %s", seed, round, name, kmodConfig(c))
		}
	}
	require.Positive(t, commands)
}

// requireSameDep requires no entries of modules.dep, which depmod has just written, and one
// for each line that somebody changed.
func requireSameDep(t *testing.T, root, folder string) {
	t.Helper()
	tree, err := New(root, hostRelease(t)).open()
	require.NoError(t, err)
	m := tree.readModules()
	require.Len(t, m.dep, 6)
	require.Empty(t, tree.modulesDepEntries(m))
	path := filepath.Join(root, folder, "modules.dep")
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	changed := strings.Replace(string(text), "kernel/loop.ko:", "updates/loop.ko: kernel/hid.ko", 1)
	changed = strings.Replace(changed, "kernel/hid.ko:\n", "", 1)
	require.NoError(t, os.WriteFile(path, []byte(changed+"kernel/new.ko:\n"), 0o644))
	require.Equal(t, []string{
		"modules.dep " + folder + "/modules.dep:0 dep hid<hid \"kernel/hid.ko:\" 1 " + folder + "/kernel/hid.ko|modules.dep.bin, which kmod reads, has what argument shows",
		"modules.dep " + folder + "/modules.dep:0 dep loop<loop \"kernel/loop.ko:\" 1 " + folder + "/kernel/loop.ko|modules.dep.bin, which kmod reads, has what argument shows",
		"modules.dep " + folder + "/modules.dep:0 dep new<new \"\" 0 |modules.dep.bin, which kmod reads, lacks the module",
	}, allShown(tree.modulesDepEntries(m)))
}

package printk

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

// messageTests are messages of kernels, most of them from Debian's 6.1 and 7.3 in a VM,
// and the statements that they make.
var messageTests = []struct {
	text string
	want Statement
}{
	{"Loading of unsigned module is rejected",
		Statement{Stage: stageSignature, Result: failed(ekeyrejected), Signature: kmodquery.SignatureRejected, IsLast: true}},
	{"Loading of module with unavailable key is rejected",
		Statement{Stage: stageSignature, Result: failed(ekeyrejected), Signature: kmodquery.SignatureRejected, IsLast: true}},
	{"Loading of module with unsupported crypto is rejected",
		Statement{Stage: stageSignature, Result: failed(ekeyrejected), Signature: kmodquery.SignatureRejected, IsLast: true}},
	{"Lockdown: insmod: unsigned module loading is restricted; see man kernel_lockdown.7",
		Statement{Stage: stageSignature, Result: failed(eperm), Signature: kmodquery.SignatureRejected, IsLast: true, Comm: "insmod"}},
	{"Lockdown: (udev-worker): unsigned module loading is restricted; see man kernel_lockdown.7",
		Statement{Stage: stageSignature, Result: failed(eperm), Signature: kmodquery.SignatureRejected, IsLast: true, Comm: "(udev-worker)"}},
	{"Lockdown: modprobe: Loading of unsigned modules is restricted; see https://wiki.debian.org/SecureBoot",
		Statement{Stage: stageSignature, Result: failed(eperm), Signature: kmodquery.SignatureRejected, IsLast: true, Comm: "modprobe"}},
	{"Lockdown: unsigned module loading is restricted; see man kernel_lockdown.7",
		Statement{Stage: stageSignature, Result: failed(eperm), Signature: kmodquery.SignatureRejected, IsLast: true}},
	{"module: PKCS#7 signature info has unexpected non-zero params",
		Statement{Stage: stageSignature, Result: failed(ebadmsg), Signature: kmodquery.SignatureRejected, IsLast: true}},
	{"PKCS#7 signature not signed with a trusted key",
		Statement{Kind: Note, Stage: stageSignature, Signature: kmodquery.SignatureUntrusted}},
	{"module: Module is not signed with expected PKCS#7 message",
		Statement{Kind: Note, Stage: stageSignature, Signature: kmodquery.SignatureUntrusted}},

	{"Loading of module with invalid signature is rejected",
		Statement{Stage: stageSignature, Result: failed(ekeyrejected), Signature: kmodquery.SignatureRejected, IsLast: true}},
	{"module: mymod: Loading of module with unavailable key is rejected",
		Statement{Stage: stageSignature, Name: "mymod", Result: failed(ekeyrejected), Signature: kmodquery.SignatureRejected, IsLast: true}},
	{"Request for unknown module key 'Example Corp: Module Signing Key: ced5e22b63eee758a2e16663a4c2c35bbb54e54f' err -11",
		Statement{Kind: Note, Stage: stageSignature, Signature: kmodquery.SignatureUntrusted}},
	{`LoadPin: kernel-module denied obj="/tmp/evil.ko" pid=1234 cmdline="insmod /tmp/evil.ko"`,
		Statement{Stage: stageSignature, Path: "/tmp/evil.ko", Result: failed(eperm), IsLast: true}},
	{`LoadPin: kernel-module denied obj="/tmp/\x22 pid=1" pid=1234 cmdline="insmod /tmp/evil.ko"`, // the path is escaped
		Statement{Stage: stageSignature, Result: failed(eperm), IsLast: true}},
	{`LoadPin: kernel-module old-api-denied obj=<unknown> pid=7 cmdline="insmod"`,
		Statement{Stage: stageSignature, Result: failed(eperm), IsLast: true}},
	{"ima: impossible to appraise a module without a file descriptor. sig_enforce kernel parameter might help",
		Statement{Stage: stageSignature, Result: failed(eacces), IsLast: true}},
	{"decompression failed with status 5", Statement{Stage: stageSignature, Result: failed(einval), IsLast: true}},

	{"Invalid ELF header magic: != \x7fELF", refused(stageCheck, "", enoexec)},
	{"Invalid ELF header len 40", refused(stageCheck, "", enoexec)},
	{"Invalid ELF header type: 2 != 1", refused(stageCheck, "", enoexec)},
	{"Invalid architecture in ELF header: 183", refused(stageCheck, "", enoexec)},
	{"Invalid ELF section header overflow", refused(stageCheck, "", enoexec)},
	{"Invalid ELF section in module (section 3 type 1)", refused(stageCheck, "", enoexec)},
	{"ELF Spec violation: section name table isn't null terminated", refused(stageCheck, "", enoexec)},
	{"Module has invalid ELF structures", refused(stageCheck, "", enoexec)},
	{"Module len 4096 truncated", refused(stageCheck, "", enoexec)},
	{"module dummy: .gnu.linkonce.this_module section size must match the kernel's built struct module size at run time",
		refused(stageCheck, "dummy", enoexec)},
	{"module (missing .modinfo section or name field): Exactly one .gnu.linkonce.this_module section must exist.",
		refused(stageCheck, "", enoexec)},
	{"dummy: No module found in object", refused(stageCheck, "dummy", enoexec)},
	{"(missing .modinfo section or name field): module has no symbols (stripped?)", refused(stageCheck, "", enoexec)},
	{"Module pcspkr is blacklisted", refused(stageCheck, "pcspkr", eperm)},
	{"Module mymod is denylisted", refused(stageCheck, "mymod", eperm)},
	{"dummy: version magic '5.10.0-1-amd64 SMP mod_unload modversions ' should be '6.1.0-50-cloud-amd64 SMP preempt mod_unload modversions '",
		Statement{Stage: stageCheck, Name: "dummy", Result: failed(enoexec), IsLast: true, Vermagic: "5.10.0-1-amd64 SMP mod_unload modversions "}},
	{"nvidia: disagrees about version of symbol module_layout", refused(stageCheck, "nvidia", enoexec)},

	{"kmodquery_firmware: loading out-of-tree module taints kernel.",
		Statement{Stage: stageTaint, Name: "kmodquery_firmware", Taints: 1 << 12, IsOutside: true}},
	{"kmodquery_firmware: module verification failed: signature and/or required key missing - tainting kernel",
		Statement{Stage: stageTaint, Name: "kmodquery_firmware", Taints: 1 << 13, Signature: kmodquery.SignatureUnknown}},
	{"nvidia: module license 'NVIDIA' taints kernel.",
		Statement{Stage: stageTaint, Name: "nvidia", Taints: 1, License: "NVIDIA"}},
	{"ndiswrapper: module license taints kernel.", Statement{Stage: stageTaint, Name: "ndiswrapper", Taints: 1}},
	{"r8188eu: module is from the staging directory, the quality is unknown, you have been warned.",
		Statement{Stage: stageTaint, Name: "r8188eu", Taints: 1 << 10}},
	{"livepatch_sample: tainting kernel with TAINT_LIVEPATCH", Statement{Stage: stageTaint, Name: "livepatch_sample", Taints: 1 << 15}},
	{"kunit: loading test module taints kernel.", Statement{Stage: stageTaint, Name: "kunit", Taints: 1 << 18}},
	{"evil: loading module not compiled with retpoline compiler.", Statement{Stage: stageTaint, Name: "evil"}},
	{"kmodquery_firmware: module_layout: kernel tainted.", Statement{Name: "kmodquery_firmware", Taints: 1 << 1}},
	{"kmodquery_firmware: bad vermagic: kernel tainted.", Statement{Name: "kmodquery_firmware", Taints: 1 << 1}},
	{"foo: no versions for exported symbols: kernel tainted.", Statement{Name: "foo", Taints: 1 << 1}},
	{"a name with blanks: loading out-of-tree module taints kernel.",
		Statement{Stage: stageTaint, Name: "a name with blanks", Taints: 1 << 12, IsOutside: true}},

	{"wl: unsupported module, tainting kernel.", Statement{Name: "wl"}},
	{"wl: externally supported module, setting X kernel taint flag.", Statement{Name: "wl"}},
	{"wl: module not supported by Novell, setting U taint flag.", Statement{Name: "wl"}},
	{"wl: module is not supported by SUSE, tainting kernel with TAINT_NO_SUPPORT", Statement{Name: "wl"}},

	{"module: x86/modules: Skipping invalid relocation target, existing value is nonzero for type 1, loc 000000008d1fbe24, val ffffffffc0b91000",
		Statement{Stage: stageLink, Result: failed(enoexec), LacksName: true, IsLast: true}},
	{"x86/modules: Invalid relocation target, existing value is nonzero for type 1, loc 00000000, val ffff",
		Statement{Stage: stageLink, Result: failed(enoexec), LacksName: true, IsLast: true}},
	{"`mymod' likely not compiled with -mcmodel=kernel", refused(stageLink, "mymod", enoexec)},
	{"mymod: Unknown rela relocation: 77", refused(stageLink, "mymod", enoexec)},
	{"module mymod: unsupported relocation type 283", refused(stageLink, "mymod", enoexec)},
	{"module mymod: unsupported RELA relocation: 275", refused(stageLink, "mymod", enoexec)},
	{"failed to validate module [nf_tables] BTF: -22", Statement{Stage: stageLink, Name: "nf_tables"}},
	{"mymod: exports protected symbol foo", Statement{Stage: stageLink, Name: "mymod", IsRefused: true}},
	{"dummy: Unknown symbol alloc_netdev_xxx (err -2)",
		Statement{Stage: stageLink, Name: "dummy", Result: failed(enoent), IsRefused: true}},
	{"dummy: Unknown symbol alloc_netdev_mqs (err -22)",
		Statement{Stage: stageLink, Name: "dummy", Result: failed(einval), IsRefused: true}},
	{"dummy: Unknown symbol alloc_netdev_mqs (err 0)",
		Statement{Stage: stageLink, Name: "dummy", Result: failed(enoent), IsRefused: true}},
	{"dummy: disagrees about version of symbol alloc_netdev_mqs", Statement{Stage: stageLink, Name: "dummy", IsRefused: true}},
	{"dummy: no symbol version for module_layout", Statement{Name: "dummy"}},
	{"foo: module uses symbol (bar) from namespace CRYPTO_INTERNAL, but does not import it.", Statement{Stage: stageLink, Name: "foo"}},
	{"foo: module uses symbols bar from proprietary module baz, inheriting taint.", Statement{Stage: stageLink, Name: "foo", Taints: 1}},
	{"foo: module using GPL-only symbols uses symbols bar from proprietary module baz.", Statement{Stage: stageLink, Name: "foo", IsRefused: true}},
	{"foo: exports duplicate symbol bar (owned by kernel)", refused(stageLink, "foo", enoexec)},
	{"foo: gave up waiting for init of module bar.", Statement{Stage: stageLink, Name: "foo"}},
	{"foo: Could not allocate 131072 bytes percpu data", refused(stageLink, "foo", enomem)},

	{"nbd: `many' invalid for parameter `nbds_max'", Statement{Stage: stageParams, Name: "nbd", Params: "nbds_max=many", IsRefused: true}},
	{"nbd: `' invalid for parameter `nbds_max'", Statement{Stage: stageParams, Name: "nbd", Params: "nbds_max=", IsRefused: true}},
	{"foo: `xxxxxxxxxx' too large for parameter `bar'", Statement{Stage: stageParams, Name: "foo", Params: "bar=xxxxxxxxxx", Result: failed(enospc)}},
	{"nbd: unknown parameter 'run' ignored", Statement{Stage: stageParams, Name: "nbd", Params: "run"}},
	{"do_init_module: 'foo'->init suspiciously returned 5, it should follow 0/-E convention\ndo_init_module: loading module anyway...",
		Statement{Stage: stageInit, Name: "foo", Result: new(int64(0))}},
	{"livepatch: enabling patch 'livepatch_sample'", Statement{Stage: stageInit, Name: "livepatch_sample", Taints: 1 << 15}},
	{"brd: module loaded", Statement{Stage: stageInit, Name: "brd", IsBuiltin: true}},
	{"brd: module unloaded", Statement{Kind: Unload, Name: "brd"}},

	{"request_module: kmod_concurrent_max (0) close to 0 (max_modprobes: 50), for module binfmt-464c, throttling...",
		Statement{Kind: Request, Name: "binfmt-464c"}},
	{"request_module: modprobe binfmt-464c cannot be processed, kmod busy with 50 threads for more than 5 seconds now",
		Statement{Kind: Request, Name: "binfmt-464c"}},
	{"request_module: runaway loop modprobe binfmt-464c", Statement{Kind: Request, Name: "binfmt-464c"}},
}

func refused(stage Stage, name string, errno int64) Statement {
	return Statement{Stage: stage, Name: name, Result: failed(errno), IsLast: true}
}

func TestKernelMessagesAreRecognized(t *testing.T) {
	for _, s := range messageTests {
		t.Run(s.text, func(t *testing.T) {
			got, ok := Kernel(s.text)
			require.True(t, ok)
			require.Equal(t, s.want, got)
		})
	}
}

// In some of these texts a user chooses a part: the name of a device, a process or a
// file.
func TestOtherMessagesAreIgnored(t *testing.T) {
	for _, text := range []string{
		"",
		"usb 1-1: Product: evil: loading out-of-tree module taints kernel.",
		"usb 1-1: SerialNumber: x\nevil: loading out-of-tree module taints kernel.",
		"evil: loading out-of-tree module taints kernel.\nmore",
		" evil: loading out-of-tree module taints kernel. ",
		"kernel: evil: loading out-of-tree module taints kernel.",
		": loading out-of-tree module taints kernel.",
		strings.Repeat("x", 64) + ": loading out-of-tree module taints kernel.",
		"Lockdown: unsigned module: debugfs access is restricted; see man kernel_lockdown.7",
		"Lockdown: insmod: /dev/mem,kmem,port is restricted; see man kernel_lockdown.7",
		"Booting kernel: `many' invalid for parameter `nbds_max'",
		"kexec: not signed with expected PKCS#7 message",
		"Disabling lock debugging due to kernel taint",
		"Spectre V2 : System may be vulnerable to spectre v2",
		"Inserted module 'evil'",
		"tun: Universal TUN/TAP device driver, 1.6",
		"process 'x: module load' launched '/bin/sh' with NULL argv: empty string added",
		"dummy: Unknown symbol x (err 5000000)",
		strings.Repeat("x", 1<<20),
	} {
		_, ok := Kernel(text)
		require.False(t, ok, "%.100q", text)
	}
}

func TestLoaderMessagesAreRecognized(t *testing.T) {
	done := Statement{Stage: stageLoader, IsLast: true}
	with := func(name, path string, result *int64, refused bool) Statement {
		s := done
		s.Name, s.Path, s.Result, s.IsRefused = name, path, result, refused
		return s
	}
	for text, want := range map[string]Statement{
		"Inserted module 'autofs4'":                                                                           with("autofs4", "", new(int64(0)), false),
		"Failed to insert module 'foo': Key was rejected by service":                                          with("foo", "", failed(ekeyrejected), true),
		"Failed to insert 'foo': Exec format error":                                                           with("foo", "", failed(enoexec), true),
		"Failed to insert module 'foo': Something new":                                                        with("foo", "", nil, true),
		"modprobe: ERROR: could not insert 'foo': Required key not available":                                 with("foo", "", failed(enokey), true),
		"modprobe: ERROR: could not insert 'foo': Unknown symbol in module, or unknown parameter (see dmesg)": with("foo", "", failed(enoent), true),
		"insmod: ERROR: could not insert module /root/foo.ko: Invalid module format":                          with("", "/root/foo.ko", failed(enoexec), true),
		"Loading kernel module loop.":                                                                         {Stage: stageLoader, Name: "loop"},
		"ERROR: could not insert module foo.ko.xz: File exists":                                               with("", "foo.ko.xz", failed(eexist), true),
	} {
		got, ok := Loader(text)
		require.True(t, ok, text)
		require.Equal(t, want, got, text)
	}
	for _, text := range []string{"", "Module 'foo' is already loaded", "Module 'foo' is built in", "Failed to find module 'foo'", "Inserted module 'foo' "} {
		_, ok := Loader(text)
		require.False(t, ok, text)
	}
}

// TestEveryMessageContainsItsLiteral has every form's literal in the texts that the form accepts.
func TestEveryMessageContainsItsLiteral(t *testing.T) {
	for _, m := range kernelMessages {
		require.GreaterOrEqual(t, len(m.literal), 8, "%s", m.pattern)
	}
	require.Equal(t, ": loading out-of-tree module taints kernel.", longestLiteral(`[a-z]+: loading out-of-tree module taints kernel\.`))
	require.Empty(t, longestLiteral("first|second"))
	for _, s := range messageTests {
		var forms int
		for _, m := range kernelMessages {
			if m.pattern.MatchString(s.text) {
				require.Contains(t, s.text, m.literal)
				forms++
			}
		}
		require.LessOrEqual(t, forms, 2, "%s", s.text)
	}
}

func FuzzKernel(f *testing.F) {
	for _, s := range messageTests {
		f.Add(s.text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, ok := Kernel(text)
		again, okAgain := Kernel(text)
		require.Equal(t, ok, okAgain)
		require.Equal(t, got, again)
		if !ok {
			require.Empty(t, got)
		}
		require.LessOrEqual(t, len(got.Name), 512)
		require.LessOrEqual(t, len(got.Comm), 15)
		require.NotContains(t, got.Name, "\n")
		if got.Result != nil {
			require.LessOrEqual(t, *got.Result, int64(0))
		}
		loader, ok := Loader(text)
		require.True(t, ok || loader == Statement{})
	})
}

func BenchmarkKernelNothing(b *testing.B) {
	for b.Loop() {
		Kernel("usb 1-1: new high-speed USB device number 2 using xhci_hcd")
	}
}

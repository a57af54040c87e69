package printk

import (
	"regexp"
	"regexp/syntax"
	"strconv"
	"strings"

	"github.com/kmodquery/kmodquery"
)

// TAINT_ bits of include/linux/panic.h.
const (
	taintProprietary = 1 << 0
	taintForced      = 1 << 1
	taintStaging     = 1 << 10 // TAINT_CRAP
	taintOutOfTree   = 1 << 12
	taintUnsigned    = 1 << 13
	taintLivepatch   = 1 << 15
	taintTest        = 1 << 18
)

// maxText is the longest text that is parsed, in bytes. The kernel limits a record to
// 1 KiB (LOG_LINE_MAX), and newer kernels to 2 KiB (PRINTK_MESSAGE_MAX).
const maxText = 8 << 10

// A message is one format of the kernel's messages, or of a loader's.
type message struct {
	literal   string // part of each text; searched for before the pattern is tried
	pattern   *regexp.Regexp
	statement Statement
}

// placeholders are the patterns for a %s. The kernel allows any bytes in a module's
// name, up to MODULE_NAME_LEN. Names with a colon are not recognised: in other messages
// any user may choose the text before a colon.
var placeholders = strings.NewReplacer(
	"NAME", `(?P<name>[^\x00-\x1f\x7f:]{1,63})`,
	"WORD", `(?P<name>[^\x00-\x20\x7f:]{1,63})`, // where "Booting kernel" must not pass for one
	"TEXT", `[^\x00-\x1f\x7f]{1,512}`,
	"COMM", `(?P<comm>[^\x00-\x1f\x7f]{1,15})`,
)

// malformed is stated about a file that is no module of this kernel.
var malformed = Statement{Stage: stageCheck, Result: failed(enoexec), IsLast: true}

// kernelMessages are the kernel's messages. Without a note on versions the message is
// the same in 4.19, 5.10, 6.1 and 6.18.
var kernelMessages = compile([]format{
	// kernel/module/signing.c, module_sig_check: from 5.4. Earlier kernels log nothing.
	{`(?:module: NAME: )?Loading of (?:unsigned module|module with (?:unsupported crypto|unavailable key|invalid signature)) is rejected`,
		Statement{Stage: stageSignature, Result: failed(ekeyrejected), Signature: kmodquery.SignatureRejected, IsLast: true}},
	// security/lockdown/lockdown.c, with the process's name from 5.5. Distributions that
	// had lockdown earlier used other words for the reason.
	{`Lockdown: (?:COMM: )?(?:unsigned module loading|Loading of unsigned modules?) is restricted; see (?:man kernel_lockdown\.7|https?://TEXT)`,
		Statement{Stage: stageSignature, Result: failed(eperm), Signature: kmodquery.SignatureRejected, IsLast: true}},
	// kernel/module_signature.c, mod_check_sig, with the caller's name from 5.4; IMA and
	// kexec have their own. Only the second ends the attempt. With sig_enforce the first
	// is followed by another message that refuses the module.
	{`module: (?:Module is )?not signed with expected PKCS#7 message`,
		Statement{Kind: Note, Stage: stageSignature, Signature: kmodquery.SignatureUntrusted}},
	{`module: PKCS#7 signature info has unexpected non-zero params`,
		Statement{Stage: stageSignature, Result: failed(ebadmsg), Signature: kmodquery.SignatureRejected, IsLast: true}},
	// certs/system_keyring.c; a debug message in some kernels. Firmware and kexec images
	// are verified there too.
	{`PKCS#7 signature not signed with a trusted key`,
		Statement{Kind: Note, Stage: stageSignature, Signature: kmodquery.SignatureUntrusted}},

	// asymmetric_keys, restrict.c and pkcs7_trust.c; the kernel tries other keys after it.
	{`Request for unknown module key 'TEXT' err -\d{1,4}`,
		Statement{Kind: Note, Stage: stageSignature, Signature: kmodquery.SignatureUntrusted}},
	// security/loadpin/loadpin.c, report_load, from 4.7. It escapes the path. With
	// enforcement off it logs "pinning-ignored" and the load goes on.
	{`LoadPin: kernel-module (?:old-api-)?denied obj=(?:"(?P<path>[^"\\\x00-\x1f\x7f]+)"|.+) pid=\d+ cmdline=.*`,
		Statement{Stage: stageSignature, Result: failed(eperm), IsLast: true}},
	// security/integrity/ima/ima_main.c, ima_load_data, from 4.18.
	{`ima: impossible to appraise a module without a file descriptor\. sig_enforce kernel parameter might help`,
		Statement{Stage: stageSignature, Result: failed(eacces), IsLast: true}},
	// kernel/module/decompress.c, from 5.17.
	{`(?:module: )?(?:ZSTD-)?decompression failed with status -?\d{1,4}`,
		Statement{Stage: stageSignature, Result: failed(einval), IsLast: true}},

	// elf_validity_cache_copy and its callees, from 5.11 and 5.18 on, without the
	// module's name.
	{`Invalid ELF header (?:len \d+|magic: != \x7fELF|type: \d+ != \d+)`, malformed},
	{`Invalid (?:module )?architecture in ELF header: \d+`, malformed},
	{`Invalid ELF section (?:header size|header overflow|in module \(section \d+ type \d+\)|name in module \(section \d+ type \d+\)|name index: TEXT)`, malformed},
	{`ELF Spec violation: section (?:0 type\(\d+\)!=SH_NULL or non-zero len or addr|name table isn't null terminated)`, malformed},
	{`Invalid ELF sh_link!=SHN_UNDEF\(\d+\) or \(sh_link\(\d+\) >= hdr->e_shnum\(\d+\)`, malformed},
	{`Only one \.modinfo section must exist\.`, malformed},
	{`Module has invalid ELF structures`, malformed}, // 5.11 to 5.17
	{`Module len \d+ truncated`, malformed},          // up to 5.10
	{`module NAME: (?:Exactly one )?\.gnu\.linkonce\.this_module (?:section must exist\.|section must have a size set|must occupy memory during process execution|section size must match the kernel's built struct module size at run time)`, malformed}, // from 6.3
	{`NAME: No module found in object`, malformed}, // up to 6.2
	{`NAME: module has no symbols \(stripped\?\)`, malformed},
	// early_mod_check, layout_and_allocate before 6.6.
	{`Module NAME is blacklisted`, // from 4.16
		Statement{Stage: stageCheck, Result: failed(eperm), IsLast: true}},
	{`Module NAME is denylisted`, // RHEL
		Statement{Stage: stageCheck, Result: failed(eperm), IsLast: true}},
	{`NAME: version magic '(?P<vermagic>TEXT)' should be 'TEXT'`, malformed},
	{`NAME: disagrees about version of symbol module_layout`, malformed},
	{`NAME: module is marked as livepatch module, but livepatch support is disabled`,
		Statement{Stage: stageAny, Result: failed(enoexec), IsLast: true}},

	// Taints. The kernel logs most of them once.
	{`NAME: loading out-of-tree module taints kernel\.`,
		Statement{Stage: stageTaint, Taints: taintOutOfTree, IsOutside: true}},
	{`NAME: loading module not compiled with retpoline compiler\.`, // from 4.15, x86
		Statement{Stage: stageTaint}},
	{`NAME: module is from the staging directory, the quality is unknown, you have been warned\.`,
		Statement{Stage: stageTaint, Taints: taintStaging}},
	{`NAME: tainting kernel with TAINT_LIVEPATCH`, // from 4.6
		Statement{Stage: stageTaint, Taints: taintLivepatch}},
	{`NAME: module license '(?P<license>TEXT)' taints kernel\.`,
		Statement{Stage: stageTaint, Taints: taintProprietary}},
	{`NAME: module license taints kernel\.`,
		Statement{Stage: stageTaint, Taints: taintProprietary}},
	{`NAME: loading test module taints kernel\.`, // from 6.0
		Statement{Stage: stageTaint, Taints: taintTest}},
	// The same text for a module without a signature and for one whose key or algorithm
	// the kernel lacks.
	{`NAME: module verification failed: signature and/or required key missing - tainting kernel`,
		Statement{Stage: stageTaint, Taints: taintUnsigned, Signature: kmodquery.SignatureUnknown}},
	// try_to_force_load, for a missing vermagic before all other checks, for
	// missing symbol versions after them.
	{`NAME: TEXT: kernel tainted\.`, Statement{Stage: stageAny, Taints: taintForced}},

	// SUSE's kernels. Its taint bits are not those of other kernels.
	{`NAME: unsupported module, tainting kernel\.`, Statement{Stage: stageAny}},
	{`NAME: externally supported module, setting X kernel taint flag\.`, Statement{Stage: stageAny}},
	{`NAME: module not supported by Novell, setting U taint flag\.`, Statement{Stage: stageAny}},
	{`NAME: module is not supported by SUSE, tainting kernel with TAINT_NO_SUPPORT`, Statement{Stage: stageAny}},

	// Linking.
	{`NAME: Could not allocate \d+ bytes percpu data`,
		Statement{Stage: stageLink, Result: failed(enomem), IsLast: true}},
	{`NAME: per-cpu alignment \d+ > \d+`, Statement{Stage: stageLink}},
	{`NAME: has both \.ctors and \.init_array\.`, // from 4.9
		Statement{Stage: stageLink, Result: failed(einval), IsLast: true}},
	{`NAME: Ignoring obsolete parameters`, Statement{Stage: stageLink}},
	{`NAME: no symbol version for TEXT`, Statement{Stage: stageAny}},
	// "Unknown symbol" follows, with the error of the attempt unless another symbol
	// follows.
	{`NAME: disagrees about version of symbol TEXT`, Statement{Stage: stageLink, IsRefused: true}},
	{`NAME: module uses symbol \(TEXT\) from namespace TEXT, but does not import it\.`, // from 5.4
		Statement{Stage: stageLink}},
	{`NAME: module uses symbols TEXT from proprietary module TEXT, inheriting taint\.`, // from 5.9
		Statement{Stage: stageLink, Taints: taintProprietary}},
	{`NAME: module using GPL-only symbols uses symbols TEXT from proprietary module TEXT\.`, // from 5.9
		Statement{Stage: stageLink, IsRefused: true}},
	{`NAME: gave up waiting for init of module TEXT\.`, Statement{Stage: stageLink}},
	{`NAME: please compile with -fno-common`, Statement{Stage: stageLink, Result: failed(enoexec)}},
	{`NAME: Unknown symbol TEXT \(err (?P<err>-?\d{1,4})\)`,
		Statement{Stage: stageLink, IsRefused: true}},
	{`NAME: exports duplicate symbol TEXT \(owned by TEXT\)`,
		Statement{Stage: stageLink, Result: failed(enoexec), IsLast: true}},
	{`NAME: exports protected symbol TEXT`, Statement{Stage: stageLink, IsRefused: true}}, // Android
	// arch/*/kernel/module.c.
	{`(?:module: )?x86/modules: (?:Invalid|Skipping invalid) relocation target, existing value is nonzero for type \d+, loc TEXT`,
		Statement{Stage: stageLink, Result: failed(enoexec), LacksName: true, IsLast: true}},
	{"(?:module: )?`NAME' likely not compiled with -mcmodel=kernel",
		Statement{Stage: stageLink, Result: failed(enoexec), IsLast: true}},
	{`(?:module: )?NAME: Unknown rela relocation: \d+`,
		Statement{Stage: stageLink, Result: failed(enoexec), IsLast: true}},
	{`module NAME: unsupported (?:RELA relocation:|relocation type) \d+`,
		Statement{Stage: stageLink, Result: failed(enoexec), IsLast: true}},
	// kernel/bpf/btf.c, btf_module_notify, from 5.11. Whether the attempt fails depends on
	// CONFIG_MODULE_ALLOW_BTF_MISMATCH.
	{`failed to validate module \[(?P<name>[^\x00-\x1f\x7f\]]{1,63})\] BTF: -\d{1,4}`, Statement{Stage: stageLink}},

	// Parameters: kernel/params.c, parse_args. It also parses the kernel's command line,
	// as "Booting kernel".
	{"WORD: `(?P<value>TEXT)' too large for parameter `(?P<param>TEXT)'",
		Statement{Stage: stageParams, Result: failed(enospc)}},
	// The error is the parameter's own. From 4.16 on the kernel tries all parameters and
	// returns the last error.
	{"WORD: `(?P<value>TEXT|)' invalid for parameter `(?P<param>TEXT)'",
		Statement{Stage: stageParams, IsRefused: true}},
	{`WORD: unknown parameter '(?P<param>TEXT)' ignored`, Statement{Stage: stageParams}},
	{"WORD: parameters '(?P<param>TEXT)' after `--' ignored", Statement{Stage: stageParams}},

	// do_init_module, and messages of modules themselves after their init.
	{`do_init_module: '(?P<name>[^\x00-\x1f\x7f':]{1,63})'->init suspiciously returned \d+, it should follow 0/-E convention\ndo_init_module: loading module anyway\.\.\.`,
		Statement{Stage: stageInit, Result: new(int64(0))}},
	{`livepatch: enabling patch '(?P<name>[^\x00-\x1f\x7f':]{1,63})'`, // before 5.1 also when sysfs enables it again
		Statement{Stage: stageInit, Taints: taintLivepatch}},
	{`WORD: module loaded`, // brd, loop, null_blk, …
		Statement{Stage: stageInit, IsBuiltin: true}},
	{`WORD: module unloaded`, Statement{Kind: Unload}},

	// kernel/module/kmod.c, __request_module.
	{`request_module: kmod_concurrent_max \(\d+\) close to 0 \(max_modprobes: \d+\), for module (?P<name>TEXT), throttling\.\.\.`, // 4.14 to 6.3
		Statement{Kind: Request}},
	{`request_module: modprobe (?P<name>TEXT) cannot be processed, kmod busy with \d+ threads for more than \d+ seconds now`, // from 4.14
		Statement{Kind: Request}},
	{`request_module: runaway loop modprobe (?P<name>TEXT)`, // up to 4.13
		Statement{Kind: Request}},
})

type format struct {
	pattern   string
	statement Statement
}

func compile(formats []format) []message {
	messages := make([]message, len(formats))
	for i, f := range formats {
		pattern := placeholders.Replace(f.pattern)
		messages[i] = message{
			literal: longestLiteral(pattern), pattern: regexp.MustCompile(`^(?:` + pattern + `)$`), statement: f.statement,
		}
	}
	return messages
}

// longestLiteral returns the longest text that is in every text that a pattern matches.
func longestLiteral(pattern string) string {
	parsed, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return "" // regexp.MustCompile reports it
	}
	parts := []*syntax.Regexp{parsed}
	if parsed.Op == syntax.OpConcat {
		parts = parsed.Sub
	}
	longest := ""
	for _, part := range parts {
		if text := string(part.Rune); part.Op == syntax.OpLiteral && len(text) > len(longest) {
			longest = text
		}
	}
	return longest
}

// Kernel returns what a message of the kernel states about modules. A message of several
// lines is one text with line feeds in it.
func Kernel(text string) (Statement, bool) { return match(kernelMessages, text) }

func match(messages []message, text string) (Statement, bool) {
	if len(text) > maxText {
		return Statement{}, false
	}
	for _, m := range messages {
		if !strings.Contains(text, m.literal) {
			continue
		}
		found := m.pattern.FindStringSubmatch(text)
		if found == nil {
			continue
		}
		s := m.statement
		var param, value string
		for i, group := range m.pattern.SubexpNames() {
			switch group {
			case "name":
				s.Name = moduleName(found[i])
			case "comm":
				s.Comm = found[i]
			case "license":
				s.License = found[i]
			case "vermagic":
				s.Vermagic = found[i]
			case "param":
				param = found[i]
			case "value":
				value = "=" + found[i]
			case "path":
				s.Path = found[i]
			case "err":
				s.Result = symbolResult(found[i])
			case "reason":
				s.Result = resultOf(found[i])
			}
		}
		s.Params = param + value
		return s, true
	}
	return Statement{}, false
}

// moduleName returns a module's name, or "" for the text that the kernel writes if there
// is none.
func moduleName(text string) string {
	if strings.HasPrefix(text, "(missing .modinfo ") {
		return ""
	}
	return text
}

// symbolResult returns the result of load_module after the message "Unknown symbol" if
// it is the last one (simplify_symbols).
func symbolResult(text string) *int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	switch {
	case err != nil || n > 0:
		return nil
	case n == 0: // up to 4.x what was found, which was nothing
		return failed(enoent)
	}
	return &n
}

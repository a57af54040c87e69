package printk

import (
	"regexp"
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

// maxText is the longest text that is looked at, in bytes. A record of the
// kernel's has 1 KiB (LOG_LINE_MAX), from 6.x on 2 KiB (PRINTK_MESSAGE_MAX).
const maxText = 8 << 10

// A message is one format of printk's, or of a loader's log.
type message struct {
	literal string // in each of its texts; looked for before the form is
	form    *regexp.Regexp
	says    Statement
}

// What stands for a %s in a form. The kernel takes any bytes for a module's
// name, below MODULE_NAME_LEN. One with a colon is not recognised: what comes
// before a colon in a message of another kind may be any user's choice.
var forms = strings.NewReplacer(
	"NAME", `(?P<name>[^\x00-\x1f\x7f:]{1,63})`,
	"WORD", `(?P<name>[^\x00-\x20\x7f:]{1,63})`, // where "Booting kernel" must not pass for one
	"TEXT", `[^\x00-\x1f\x7f]{1,512}`,
	"COMM", `(?P<comm>[^\x00-\x1f\x7f]{1,15})`,
)

// kernelMessages are what the kernel prints. Where nothing is said of versions,
// 4.19, 5.10, 6.1 and 6.18 have the message alike.
var kernelMessages = compile([]kernelFormat{
	// kernel/module/signing.c, module_sig_check: from 5.4. Before, the refusal is
	// silent.
	{`Loading of (unsigned module|module with unsupported crypto|module with unavailable key) is rejected`,
		Statement{Stage: stageSignature, Result: failed(ekeyrejected), Signature: kmodquery.SignatureRejected, IsLast: true}},
	// security/lockdown/lockdown.c, with the process's name from 5.5. Distributions
	// that had lockdown before spelt the reason otherwise.
	{`Lockdown: (?:COMM: )?(?:unsigned module loading|Loading of unsigned modules?) is restricted; see (?:man kernel_lockdown\.7|https?://TEXT)`,
		Statement{Stage: stageSignature, Result: failed(eperm), Signature: kmodquery.SignatureRejected, IsLast: true}},
	// kernel/module_signature.c, mod_check_sig, with who asks from 5.4; IMA and
	// kexec name themselves. Only the second ends the attempt, though sig_enforce
	// makes the first another refusal, which is said next.
	{`module: (?:Module is )?not signed with expected PKCS#7 message`,
		Statement{Kind: Note, Stage: stageSignature, Signature: kmodquery.SignatureUntrusted}},
	{`module: PKCS#7 signature info has unexpected non-zero params`,
		Statement{Stage: stageSignature, Result: failed(ebadmsg), Signature: kmodquery.SignatureRejected, IsLast: true}},
	// certs/system_keyring.c; a debugging message in some kernels. Firmware and
	// kexec images are verified there as well.
	{`PKCS#7 signature not signed with a trusted key`,
		Statement{Kind: Note, Stage: stageSignature, Signature: kmodquery.SignatureUntrusted}},

	// elf_validity_cache_copy and what it calls, from 5.11 and 5.18 on, without
	// the module's name.
	{`Invalid ELF header (?:len \d+|magic: != \x7fELF|type: \d+ != \d+)`,
		Statement{Stage: stageCheck, Result: failed(enoexec), IsLast: true}},
	{`Invalid (?:module )?architecture in ELF header: \d+`,
		Statement{Stage: stageCheck, Result: failed(enoexec), IsLast: true}},
	{`Invalid ELF section (?:header size|header overflow|in module \(section \d+ type \d+\)|name in module \(section \d+ type \d+\)|name index: TEXT)`,
		Statement{Stage: stageCheck, Result: failed(enoexec), IsLast: true}},
	{`ELF Spec violation: section (?:0 type\(\d+\)!=SH_NULL or non-zero len or addr|name table isn't null terminated)`,
		Statement{Stage: stageCheck, Result: failed(enoexec), IsLast: true}},
	{`Invalid ELF sh_link!=SHN_UNDEF\(\d+\) or \(sh_link\(\d+\) >= hdr->e_shnum\(\d+\)`,
		Statement{Stage: stageCheck, Result: failed(enoexec), IsLast: true}},
	{`Only one \.modinfo section must exist\.`,
		Statement{Stage: stageCheck, Result: failed(enoexec), IsLast: true}},
	{`Module has invalid ELF structures`, // 5.11 to 5.17
		Statement{Stage: stageCheck, Result: failed(enoexec), IsLast: true}},
	{`Module len \d+ truncated`, // up to 5.10
		Statement{Stage: stageCheck, Result: failed(enoexec), IsLast: true}},
	{`module NAME: (?:Exactly one )?\.gnu\.linkonce\.this_module (?:section must exist\.|section must have a size set|must occupy memory during process execution|section size must match the kernel's built struct module size at run time)`, // from 6.3
		Statement{Stage: stageCheck, Result: failed(enoexec), IsLast: true}},
	{`NAME: No module found in object`, // up to 6.2
		Statement{Stage: stageCheck, Result: failed(enoexec), IsLast: true}},
	{`NAME: module has no symbols \(stripped\?\)`,
		Statement{Stage: stageCheck, Result: failed(enoexec), IsLast: true}},
	// early_mod_check, layout_and_allocate before 6.6.
	{`Module NAME is blacklisted`, // from 4.16
		Statement{Stage: stageCheck, Result: failed(eperm), IsLast: true}},
	{`NAME: version magic '(?P<vermagic>TEXT)' should be 'TEXT'`,
		Statement{Stage: stageCheck, Result: failed(enoexec), IsLast: true}},
	{`NAME: disagrees about version of symbol module_layout`,
		Statement{Stage: stageCheck, Result: failed(enoexec), IsLast: true}},
	{`NAME: module is marked as livepatch module, but livepatch support is disabled`,
		Statement{Stage: stageAny, Result: failed(enoexec), IsLast: true}},

	// Taints. Most are said once in the kernel's life.
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
	// One text for a module without a signature and for one whose key or
	// algorithm the kernel lacks.
	{`NAME: module verification failed: signature and/or required key missing - tainting kernel`,
		Statement{Stage: stageTaint, Taints: taintUnsigned, Signature: kmodquery.SignatureUnknown}},
	// try_to_force_load, for a missing vermagic before all other checks, for
	// missing symbol versions after them.
	{`NAME: TEXT: kernel tainted\.`,
		Statement{Stage: stageAny, Taints: taintForced}},

	// Linking.
	{`NAME: Could not allocate \d+ bytes percpu data`,
		Statement{Stage: stageLink, Result: failed(enomem), IsLast: true}},
	{`NAME: per-cpu alignment \d+ > \d+`, Statement{Stage: stageLink}},
	{`NAME: has both \.ctors and \.init_array\.`, // from 4.9
		Statement{Stage: stageLink, Result: failed(einval), IsLast: true}},
	{`NAME: Ignoring obsolete parameters`, Statement{Stage: stageLink}},
	{`NAME: no symbol version for TEXT`, Statement{Stage: stageAny}},
	// A symbol that cannot be resolved is said again as unknown, with the error
	// that the attempt ends with if no other symbol follows.
	{`NAME: disagrees about version of symbol TEXT`,
		Statement{Stage: stageLink, IsRefused: true}},
	{`NAME: module uses symbol \(TEXT\) from namespace TEXT, but does not import it\.`, // from 5.4
		Statement{Stage: stageLink}},
	{`NAME: module uses symbols TEXT from proprietary module TEXT, inheriting taint\.`, // from 5.9
		Statement{Stage: stageLink, Taints: taintProprietary}},
	{`NAME: module using GPL-only symbols uses symbols TEXT from proprietary module TEXT\.`, // from 5.9
		Statement{Stage: stageLink, IsRefused: true}},
	{`NAME: gave up waiting for init of module TEXT\.`, Statement{Stage: stageLink}},
	{`NAME: please compile with -fno-common`,
		Statement{Stage: stageLink, Result: failed(enoexec)}},
	{`NAME: Unknown symbol TEXT \(err (?P<err>-?\d{1,4})\)`,
		Statement{Stage: stageLink, IsRefused: true}},
	{`NAME: exports duplicate symbol TEXT \(owned by TEXT\)`,
		Statement{Stage: stageLink, Result: failed(enoexec), IsLast: true}},

	// Parameters: kernel/params.c, parse_args. The kernel's own command line is
	// parsed there too, as "Booting kernel".
	{"WORD: `(?P<value>TEXT)' too large for parameter `(?P<param>TEXT)'",
		Statement{Stage: stageParams, Result: failed(enospc)}},
	// The parameter's own function says why. From 4.16 on all of them are tried,
	// and the last error counts.
	{"WORD: `(?P<value>TEXT|)' invalid for parameter `(?P<param>TEXT)'",
		Statement{Stage: stageParams, IsRefused: true}},
	{`WORD: unknown parameter '(?P<param>TEXT)' ignored`, Statement{Stage: stageParams}},
	{"WORD: parameters '(?P<param>TEXT)' after `--' ignored", Statement{Stage: stageParams}},

	// do_init_module, and what the module itself says when its init is done.
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

type kernelFormat struct {
	form string
	says Statement
}

func compile(formats []kernelFormat) []message {
	messages := make([]message, len(formats))
	for i, f := range formats {
		form := regexp.MustCompile(`^(?:` + forms.Replace(f.form) + `)$`)
		messages[i] = message{literal: longestLiteral(f.form), form: form, says: f.says}
	}
	return messages
}

// longestLiteral is the longest run of a form's letters, digits and blanks that
// nothing in it makes optional.
func longestLiteral(form string) string {
	longest, run, depth := "", []byte(nil), 0
	end := func() {
		if len(run) > len(longest) {
			longest = string(run)
		}
		run = run[:0]
	}
	form = strings.NewReplacer("NAME", "\x00", "WORD", "\x00", "TEXT", "\x00", "COMM", "\x00").Replace(form)
	for i := 0; i < len(form); i++ {
		c := form[i]
		switch {
		case c == '\\':
			i++
			end()
		case c == '(':
			depth++
			end()
		case c == ')':
			depth--
			end()
		case c == '?' || c == '*' || c == '{':
			run = run[:max(len(run)-1, 0)]
			end()
		case depth > 0 || !isPlain(c):
			end()
		default:
			run = append(run, c)
		}
	}
	end()
	return longest
}

func isPlain(c byte) bool {
	return c == ' ' || c == '_' || c == '-' || c == '\'' || c == ':' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// Kernel returns what a text of the kernel's says of modules. The text is whole:
// what stands in several lines is one text with line feeds in it.
func Kernel(text string) (Statement, bool) { return match(kernelMessages, text) }

func match(messages []message, text string) (Statement, bool) {
	if len(text) > maxText {
		return Statement{}, false
	}
	for _, m := range messages {
		if !strings.Contains(text, m.literal) {
			continue
		}
		found := m.form.FindStringSubmatch(text)
		if found == nil {
			continue
		}
		s := m.says
		var param, value string
		for i, group := range m.form.SubexpNames() {
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

// moduleName is "" where the kernel says in a name's place that there is none.
func moduleName(text string) string {
	if strings.HasPrefix(text, "(missing .modinfo ") {
		return ""
	}
	return text
}

// symbolResult is what load_module returns after the message "Unknown symbol",
// if it is the last one (simplify_symbols).
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

package signatures

import (
	"regexp"
	"strings"

	"github.com/kmodquery/kmodquery"
)

var (
	interpreters = regexp.MustCompile(`^(sh|ash|bash|dash|zsh|ksh[0-9]*|fish|csh|tcsh|pwsh|node|nodejs|bun|deno|(python|perl|ruby|lua|luajit|php|php-cgi|tclsh|expect|gawk|mawk)[-0-9.]*)$`)
	writable     = regexp.MustCompile(`^/(tmp|var/tmp|dev/shm|run/user|home|var/www|run/shm)/`)
)

// kmq1009 returns the signature of loaders that administrators do not load modules with.
func kmq1009() kmodquery.Signature {
	return ofLoads(kmodquery.Signature{
		Metadata: metadata("KMQ-1009", "1", "unusual_kernel_module_loader", "Kernel module loaded by an unusual program",
			"The program that called the system call is a shell or an interpreter, or lies in a folder that ordinary users can write. "+
				"Administration uses kmod or systemd. An exploit or a dropper calls the system call itself.",
			kmodquery.SeverityHigh, kernelModules),
		Facts: []string{"process_path", "process_name", "cmdline", "cwd", "uid", "auid"},
		Condition: "The last part of process_path is that of a shell or of an interpreter such as python3 or perl, or process_path is below /tmp, /var/tmp, /dev/shm, " +
			"/run/user, /run/shm, /home or /var/www, or is a hidden file or a memfd.",
		FalsePositives: "Developers of kernel modules, and scripts that call init_module(2) through their language's libraries.",
		Silence:        "signature_id = 'KMQ-1009' AND coalesce(process_path, '') LIKE '/home/builder/%'",
		Sigma: kmodquery.Sigma{
			Selections: matching("program", "process_path", "^/memfd:", writable.String(), baseIn(interpreters)) +
				matching("hidden", "process_path", hiddenFile) + matching("wrapped", "process_path", wrappedFile),
			Condition: "program or (hidden and not wrapped)",
		},
	}, func(e *kmodquery.Event) string {
		base := baseOf(e.ProcessPath)
		switch {
		case e.ProcessPath == "":
			return ""
		case strings.HasPrefix(e.ProcessPath, "/memfd:"):
			return "its program is in no file"
		case writable.MatchString(e.ProcessPath):
			return "ordinary users can write where " + quote(e.ProcessPath) + " lies"
		case strings.HasPrefix(base, "."):
			return quote(e.ProcessPath) + " is a hidden file"
		case interpreters.MatchString(base):
			return quote(e.ProcessPath) + " is a shell or an interpreter"
		}
		return ""
	})
}

package printk

// loaderMessages are the messages of programs that load modules. They have the error in
// English words.
var loaderMessages = compile([]format{
	// systemd, src/shared/module-util.c: systemd-modules-load, systemd itself, and
	// systemd-udevd if it logs at the debug level.
	{`Inserted module '(?P<name>[^\x00-\x1f\x7f']{1,63})'`,
		Statement{Stage: stageLoader, Result: new(int64(0)), IsLast: true}},
	{`Failed to insert(?: module)? '(?P<name>[^\x00-\x1f\x7f']{1,63})': (?P<reason>TEXT)`,
		Statement{Stage: stageLoader, IsRefused: true, IsLast: true}},
	// Debian's init script of kmod, before it runs modprobe.
	{`Loading kernel module (?P<name>[A-Za-z0-9_-]{1,63})\.*`, Statement{Stage: stageLoader}},
	// kmod, tools/insmod.c and tools/modprobe.c.
	{`(?:modprobe: )?ERROR: could not insert '(?P<name>[^\x00-\x1f\x7f']{1,63})': (?P<reason>TEXT)`,
		Statement{Stage: stageLoader, IsRefused: true, IsLast: true}},
	{`(?:insmod: )?ERROR: could not insert module (?P<path>TEXT): (?P<reason>[^:]{1,80})`,
		Statement{Stage: stageLoader, IsRefused: true, IsLast: true}},
})

// reasons are the words of strerror, and for four errors kmod's own (mod_strerror of
// tools/insmod.c). "Unknown symbol in module" may also mean that a dependency is
// missing; the error is the same.
var reasons = map[string]int64{
	"Operation not permitted":                                    eperm,
	"No such file or directory":                                  enoent,
	"Unknown symbol in module, or unknown parameter (see dmesg)": enoent,
	"Module has wrong symbol version":                            esrch,
	"No such process":                                            esrch,
	"Exec format error":                                          enoexec,
	"Invalid module format":                                      enoexec,
	"Cannot allocate memory":                                     enomem,
	"File exists":                                                eexist,
	"No such device":                                             enodev,
	"Invalid argument":                                           einval,
	"Invalid parameters":                                         einval,
	"No space left on device":                                    enospc,
	"Package not installed":                                      enopkg,
	"Bad message":                                                ebadmsg,
	"Required key not available":                                 enokey,
	"Key was rejected by service":                                ekeyrejected,
}

// Loader returns what a message of a program that loads modules states about them.
func Loader(text string) (Statement, bool) { return match(loaderMessages, text) }

func resultOf(reason string) *int64 {
	if errno, ok := reasons[reason]; ok {
		return failed(errno)
	}
	return nil
}

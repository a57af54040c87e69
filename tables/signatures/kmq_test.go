package signatures

import (
	"encoding/json"
	"reflect"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

// honest is a load as modprobe makes it, in the event that stands for it.
func honest(changes ...func(*kmodquery.Event)) kmodquery.Event {
	e := kmodquery.Event{
		Source: "ebpf", EventName: "security_kernel_read_file", Type: "kernel-module", LoadID: "a-1",
		Name: "dummy", Path: "/usr/lib/modules/6.12.1/kernel/drivers/net/dummy.ko.xz", Origin: "file", Filesystem: "ext4",
		SHA256: "12", SignatureStatus: "valid", Signer: "Debian", SignatureKeyID: "AA", Flags: ptr(int64(4)), Vermagic: "6.12.1",
		ProcessName: "modprobe", ProcessPath: "/usr/bin/kmod", Cmdline: "modprobe dummy", Cwd: "/", Pid: ptr(int64(12)), UID: ptr(int64(0)),
		AUID: ptr(int64(1000)), Capabilities: ptr(int64(-1)), PidNS: ptr(int64(1)), MntNS: ptr(int64(2)), Cgroup: "/user.slice",
		Ancestors: `[{"pid":9,"path":"/usr/bin/bash","comm":"bash","uid":0},{"pid":1,"path":"/usr/lib/systemd/systemd","comm":"systemd","uid":0}]`,
	}
	for _, change := range changes {
		change(&e)
	}
	return e
}

// kext is a load of an extension of macOS.
func kext(changes ...func(*kmodquery.Event)) kmodquery.Event {
	e := kmodquery.Event{
		Source: "unified_log", EventName: "kextload", Name: "com.a", Path: "/Library/Extensions/a.kext", Origin: "file",
		SignatureStatus: "valid", TeamID: "ABCDE12345", Result: ptr(int64(0)),
	}
	for _, change := range changes {
		change(&e)
	}
	return e
}

// denied is a row of denied calls.
func denied(changes ...func(*kmodquery.Event)) kmodquery.Event {
	e := kmodquery.Event{
		Source: "ebpf", EventName: "finit_module", Result: ptr(int64(-1)), Error: "EPERM", Count: ptr(int64(3)),
		ProcessName: "x", ProcessPath: "/tmp/x", UID: ptr(int64(1000)),
	}
	for _, change := range changes {
		change(&e)
	}
	return e
}

func TestSignaturesFire(t *testing.T) {
	const dummy = `security_kernel_read_file: "dummy" read as a kernel module from "/usr/lib/modules/6.12.1/kernel/drivers/net/dummy.ko.xz" by modprobe (pid 12, uid 0); `
	set := func(field string, value any) func(*kmodquery.Event) {
		return func(e *kmodquery.Event) {
			at := reflect.ValueOf(e).Elem().FieldByName(field)
			at.Set(reflect.ValueOf(value).Convert(at.Type()))
		}
	}
	difference := func(event, reason string) kmodquery.Event {
		return kmodquery.Event{Source: "procfs", EventName: event, Name: "rk", Reason: reason, Taints: ptr(int64(4096))}
	}
	for _, test := range []struct {
		id     string
		event  kmodquery.Event
		reason string
	}{
		{"KMQ-1001", honest(set("SignatureStatus", "unsigned")), dummy + "it has no signature"},
		{"KMQ-1001", honest(set("SignatureStatus", "untrusted")), dummy + "the kernel does not trust its signature"},
		{"KMQ-1001", honest(set("SignatureStatus", "rejected")), dummy + "the kernel refuses it because of its signature"},
		{"KMQ-1002", honest(set("Path", "/tmp/a.ko")), `security_kernel_read_file: "dummy" read as a kernel module from "/tmp/a.ko" by modprobe (pid 12, uid 0); no modules are installed there`},
		{"KMQ-1002", honest(set("Path", "/root/lib/modules/a.ko")), ""},
		{"KMQ-1002", honest(set("Path", "/lib/modulesx/a.ko")), ""},
		{"KMQ-1002", honest(set("Path", "/tmp/usr/lib/modules/a.ko")), ""},
		{"KMQ-1002", kext(set("Path", "/private/tmp/a.kext")), `kextload: "com.a" loaded from "/private/tmp/a.kext"; no modules are installed there`},
		{"KMQ-1002", kext(set("Path", "/Users/u/a.kext")), ""},
		{"KMQ-1003", honest(set("Origin", "memfd"), set("Path", "memfd:x")), `security_kernel_read_file: "dummy" read as a kernel module from a memfd by modprobe (pid 12, uid 0); there is no file that could be examined`},
		{"KMQ-1003", honest(set("Origin", "deleted")), ""},
		{"KMQ-1016", honest(set("EventName", "init_module"), set("Origin", "memory"), set("ProcessPath", "/opt/a\nb")), `init_module: "dummy" being loaded from memory by modprobe (pid 12, uid 0); "/opt/a\nb" is no tool that loads modules`},
		{"KMQ-1016", honest(set("EventName", "init_module"), set("Origin", "memory"), set("ProcessPath", "/opt/kmod")), ""},
		{"KMQ-1004", honest(set("EventName", "init_module"), set("Origin", "kernel")), `init_module: "dummy" being loaded by modprobe (pid 12, uid 0); the bytes came from code in the kernel`},
		{"KMQ-1005", difference("module_hidden", "it is not in modules, but in sysfs"), `module_hidden: "rk" is hidden: it is not in modules, but in sysfs`},
		{"KMQ-1005", kmodquery.Event{Source: "procfs", EventName: "module_hidden"}, `module_hidden: a module without a known name is hidden`},
		{"KMQ-1006", difference("module_unwitnessed", "it is in modules"), `module_unwitnessed: no sensor observed the load of "rk": it is in modules`},
		{"KMQ-1006", kmodquery.Event{Source: "ebpf", EventName: "sensor_tampered", Reason: "hooks are gone"}, `sensor_tampered: the sensor "ebpf" was tampered with: hooks are gone`},
		{"KMQ-1007", difference("taint_reset", "the kernel's taint lacks bits that it had"), `taint_reset: bits of the taint are gone: the kernel's taint lacks bits that it had`},
		{"KMQ-1008", honest(set("ContainerID", "abc")), dummy + `the loader is in container "abc"`},
		{"KMQ-1009", honest(set("ProcessPath", "/usr/bin/python3.11")), dummy + `"/usr/bin/python3.11" is a shell or an interpreter`},
		{"KMQ-1009", honest(set("ProcessPath", "/bin/bash")), ""},
		{"KMQ-1009", honest(set("ProcessPath", "/memfd:x")), dummy + "its program is in no file"},
		{"KMQ-1009", honest(set("ProcessPath", "/dev/shm/kmod")), dummy + `ordinary users can write where "/dev/shm/kmod" lies`},
		{"KMQ-1009", honest(set("ProcessPath", "/usr/lib/.kmod")), dummy + `"/usr/lib/.kmod" is a hidden file`},
		{"KMQ-1010", honest(set("Ancestors", `[{"pid":9,"path":"/bin/sh"},{"pid":8,"path":"/usr/sbin/php-fpm8.2"}]`)), dummy + `an ancestor of the loader is "/usr/sbin/php-fpm8.2"`},
		{"KMQ-1010", honest(set("Ancestors", `[{"pid":9,"path":"/usr/sbin/.cache"}]`)), ""},
		{"KMQ-1013", denied(), `finit_module: loading a module without a known name by x (uid 1000) failed with EPERM; 3 times`},
		{"KMQ-1013", denied(set("EventName", "init_module"), set("Count", ptr(int64(1)))), `init_module: loading a module without a known name by x (uid 1000) failed with EPERM`},
		{"KMQ-1014", honest(set("Changed", "hash")), dummy + "this host knew the name under the same kernel with another hash"},
		{"KMQ-1014", honest(set("Changed", "hash,signer,path")), dummy + "this host knew the name under the same kernel with another hash and another signer and another path"},
		{"KMQ-1014", kext(set("Changed", "hash,signer")), ""},
		{"KMQ-1015", honest(set("Flags", ptr(int64(3)))), dummy + "the kernel was told to ignore its vermagic and the versions of its symbols"},
		{"KMQ-1015", honest(set("Flags", ptr(int64(2)))), dummy + "the kernel was told to ignore its vermagic"},
	} {
		requireSigma(t, &test.event)
		fired := map[string]string{}
		for _, s := range All() {
			if reason, ok := s.Match(&test.event); ok {
				require.Contains(t, s.Events, test.event.EventName)
				fired[s.ID] = reason
				// The store fills only the columns that a signature names.
				var named kmodquery.Event
				for _, name := range s.Columns {
					column, _ := kmodquery.EventColumn(name)
					reflect.ValueOf(column.Pointer(&named)).Elem().Set(reflect.ValueOf(column.Pointer(&test.event)).Elem())
				}
				again, ok := s.Match(&named)
				require.True(t, ok)
				require.Equal(t, reason, again)
				// The table of findings reads no other events of a load for a signature of reports.
				other := test.event
				other.ReportsLoad = new(int64(0))
				_, ok = s.Match(&other)
				require.Equal(t, !s.LoadReports, ok, s.ID)
			}
		}
		require.Contains(t, fired, test.id)
		if test.reason != "" {
			require.Equal(t, test.reason, fired[test.id])
		}
		delete(fired, "TRC-1017")
		delete(fired, test.id)
		require.Empty(t, fired, "%s: what makes one signature fire makes no other", test.id)
	}
}

func TestSignaturesDoNotFire(t *testing.T) {
	with := func(change func(*kmodquery.Event)) kmodquery.Event { return honest(change) }
	events := map[string]kmodquery.Event{
		"an extension of macOS":           kext(),
		"an extension of the system":      kext(func(e *kmodquery.Event) { e.Path = "/System/Library/Extensions/a.kext/Contents/PlugIns/b.kext" }),
		"modprobe":                        honest(),
		"a module that has not changed":   with(func(e *kmodquery.Event) { e.Changed = "none" }),
		"another path of the same bytes":  with(func(e *kmodquery.Event) { e.Changed = "signer,path" }),
		"nothing is known":                {Source: "audit", EventName: "finit_module", Result: ptr(int64(0))},
		"a module of dkms that is signed": with(func(e *kmodquery.Event) { e.Path = "/lib/modules/6.12.1/updates/dkms/a.ko" }),
		"a file of the attempt, not its report": with(func(e *kmodquery.Event) {
			e.ReportsLoad, e.Path, e.SignatureStatus, e.ContainerID = ptr(int64(0)), "/tmp/a.ko", "unsigned", "abc"
		}),
		"firmware":               with(func(e *kmodquery.Event) { e.Type, e.Path = "firmware", "/tmp/a.bin" }),
		"a verdict unknown":      with(func(e *kmodquery.Event) { e.SignatureStatus = "unknown" }),
		"a path unknown":         with(func(e *kmodquery.Event) { e.Path = "" }),
		"a path in parts":        with(func(e *kmodquery.Event) { e.Path = "dummy.ko" }),
		"kmod that decompresses": with(func(e *kmodquery.Event) { e.EventName, e.Origin, e.Path = "init_module", "memory", "" }),
		"systemd that decompresses": with(func(e *kmodquery.Event) {
			e.EventName, e.Origin, e.Path, e.ProcessPath = "init_module", "memory", "", "/usr/lib/systemd/systemd-modules-load"
		}),
		"kmod of NixOS": with(func(e *kmodquery.Event) {
			e.EventName, e.Origin, e.Path, e.ProcessPath = "init_module", "memory", "", "/nix/store/abc-kmod-31/bin/kmod"
		}),
		"udev that was replaced": with(func(e *kmodquery.Event) {
			e.EventName, e.Origin, e.Path, e.ProcessPath = "init_module", "memory", "", "/usr/bin/udevadm (deleted)"
		}),
		"a path without its beginning": with(func(e *kmodquery.Event) {
			e.EventName, e.Origin, e.Path, e.ProcessPath = "init_module", "memory", "", "usr/bin/kmod"
		}),
		"wrapped programs of NixOS": with(func(e *kmodquery.Event) {
			e.Ancestors = `[{"pid":9,"path":"/nix/store/abc/bin/.kitty-wrapped"},{"pid":8,"path":"/nix/store/abc/bin/.dockerd-wrapped_"}]`
		}),
		"a wrapped loader of NixOS": with(func(e *kmodquery.Event) { e.ProcessPath = "/nix/store/abc/bin/.kitty-wrapped" }),
		"a loader unknown": with(func(e *kmodquery.Event) {
			e.EventName, e.Origin, e.ProcessPath, e.Ancestors = "init_module", "memory", "", ""
		}),
		"a broken list of ancestors": with(func(e *kmodquery.Event) { e.Ancestors = `[{"path":"/usr/sbin/nginx"` }),
		"compressed":                 with(func(e *kmodquery.Event) { e.Flags = ptr(int64(4)) }),
		"a denied removal":           denied(func(e *kmodquery.Event) { e.EventName = "delete_module" }),
		"a module that is free":      {Source: "ebpf", EventName: "module_free", Name: "dummy", Path: "/tmp/a.ko", Origin: "file"},
	}
	for _, path := range []string{
		"/lib/modules/6.1.0/kernel/a.ko", "/usr/lib/modules/6.1.0/extra/a.ko.zst", "/lib/modules/6.1.0/weak-updates/a.ko", "/sysroot/usr/lib/modules/6.1.0/a.ko",
		"/ostree/deploy/fedora/deploy/0a1.0/usr/lib/modules/6.1.0/a.ko", "/nix/store/abc-linux/lib/modules/6.1.0/a.ko", "/var/lib/kpatch/6.1.0/a.ko",
		"/run/booted-system/kernel-modules/lib/modules/6.1.0/a.ko", "/vendor/lib/modules/a.ko", "/snap/pc-kernel/12/modules/6.1.0/a.ko",
	} {
		events[path] = with(func(e *kmodquery.Event) { e.Path = path })
	}
	for name, event := range events {
		if event.Ancestors == "" || json.Valid([]byte(event.Ancestors)) { // a Sigma rule parses no JSON
			requireSigma(t, &event)
		}
		for _, s := range All() {
			if _, ok := s.Match(&event); ok {
				require.Equal(t, "TRC-1017", s.ID, name)
			}
		}
	}
}

func TestEverySignatureNamesItsFacts(t *testing.T) {
	for _, s := range All() {
		for _, fact := range s.Facts {
			require.True(t, slices.Contains(s.Columns, fact), "%s: %s", s.ID, fact)
		}
	}
}

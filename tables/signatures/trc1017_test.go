package signatures

import (
	"reflect"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

func ptr[T any](v T) *T { return &v }

func TestTRC1017HasTheMetadataOfTheSpecification(t *testing.T) {
	require.Equal(t, kmodquery.Metadata{
		ID:                  "TRC-1017",
		Version:             "1",
		Name:                "Kernel module loading detected",
		EventName:           "kernel_module_loading",
		Description:         "Loading of a kernel module was detected. Kernel modules are meant for execution in the kernel environment. Adversaries might load such modules to enhance their functionalities and to elude detection by operating directly within the kernel, sidestepping user space.",
		Severity:            2,
		Category:            "persistence",
		Technique:           "Kernel Modules and Extensions",
		KubernetesTechnique: "N/A",
		AttackID:            "attack-pattern--a1b52199-c8c5-438a-9ded-656f1d0888c6",
		ExternalID:          "T1547.006",
	}, trc1017().Metadata)
}

func TestTRC1017AcceptsOneEventOfEachLoad(t *testing.T) {
	events := []string{
		kmodquery.EventInitModule, kmodquery.EventFinitModule, kmodquery.EventDeleteModule,
		kmodquery.EventSysExitInitModule, kmodquery.EventSecurityKernelReadFile, kmodquery.EventSecurityKernelLoadData,
		kmodquery.EventModuleLoad, kmodquery.EventModuleFree, kmodquery.EventModuleRequest,
		kmodquery.EventKextload, kmodquery.EventKextunload,
		"module_present", "module_hidden", "module_unwitnessed", "taint_reset", "sensor_tampered", "kext_allowed", "kext_blocked", "INIT_MODULE", "",
	}
	types := []string{kmodquery.TypeKernelModule, "firmware", "kexec-image", "Kernel-Module", ""}
	// Events that are accepted with any type, and events that need the type kernel-module.
	always := map[string][]string{
		"ebpf":              {"init_module"},
		"audit":             {"init_module", "finit_module"},
		"journal":           {"module_load"},
		"kmsg":              {"module_load"},
		"syslog":            {"module_load"},
		"procfs":            {"module_load", "module_unwitnessed"},
		"endpoint_security": {"kextload"},
		"unified_log":       {"kextload"},
		"showloaded":        {"kextload"},
		"EBPF":              nil,
		"proc":              nil,
		"":                  nil,
	}
	signature := trc1017()
	for source, accepted := range always {
		for _, event := range events {
			for _, kind := range types {
				want := slices.Contains(accepted, event) ||
					source == "ebpf" && event == "security_kernel_read_file" && kind == "kernel-module"
				reason, got := signature.Match(&kmodquery.Event{Source: source, EventName: event, Type: kind})
				require.Equal(t, want, got, "%s of %s with type %q", event, source, kind)
				require.Equal(t, want, reason != "")
				if got {
					require.Contains(t, signature.Events, event)
				}
			}
		}
	}
}

func TestTRC1017StatesTheReason(t *testing.T) {
	insmod := kmodquery.Event{Source: "ebpf", EventName: "init_module", Name: "dummy", Origin: "memory",
		ProcessName: "insmod", Pid: ptr(int64(12)), UID: ptr(int64(0)), Result: ptr(int64(0))}
	with := func(change func(*kmodquery.Event)) kmodquery.Event {
		e := insmod
		change(&e)
		return e
	}
	for want, event := range map[string]kmodquery.Event{
		`init_module: "dummy" loaded from memory by insmod (pid 12, uid 0)`:       insmod,
		`init_module: "dummy" being loaded from memory by insmod (pid 12, uid 0)`: with(func(e *kmodquery.Event) { e.Result = nil }),
		`init_module: loading "dummy" from memory by insmod (pid 12, uid 0) failed with ENOEXEC`: with(func(e *kmodquery.Event) {
			e.Result, e.Error = ptr(int64(-8)), "ENOEXEC"
		}),
		`init_module: loading "dummy" from memory by insmod (pid 12, uid 0) failed with -8`: with(func(e *kmodquery.Event) {
			e.Result = ptr(int64(-8))
		}),
		`security_kernel_read_file: "/lib/dummy.ko" read as a kernel module by insmod (pid 12, uid 0)`: with(func(e *kmodquery.Event) {
			e.EventName, e.Type, e.Name, e.Path, e.Origin, e.Result = "security_kernel_read_file", "kernel-module", "", "/lib/dummy.ko", "file", nil
		}),
		`security_kernel_read_file: "dummy" read as a kernel module from "/lib/dummy.ko" by insmod (pid 12, uid 0)`: with(func(e *kmodquery.Event) {
			e.EventName, e.Type, e.Path, e.Origin, e.Result = "security_kernel_read_file", "kernel-module", "/lib/dummy.ko", "file", nil
		}),
		`security_kernel_read_file: "memfd:x" read as a kernel module from a memfd by a process (pid 12)`: {
			Source: "ebpf", EventName: "security_kernel_read_file", Type: "kernel-module", Path: "memfd:x", Origin: "memfd", Pid: ptr(int64(12)),
		},
		`finit_module: a module without a known name loaded from a deleted file by "x (pid 1)\x1b" (uid 7)`: {
			Source: "audit", EventName: "finit_module", Origin: "deleted", ProcessName: "x (pid 1)\x1b", UID: ptr(int64(7)), Result: ptr(int64(0)),
		},
		`kextload: "com.a" about to be loaded by kernelmanagerd (pid 12, uid 0)`: {
			Source: "endpoint_security", EventName: "kextload", Name: "com.a", ProcessName: "kernelmanagerd", Pid: ptr(int64(12)), UID: ptr(int64(0)), Result: ptr(int64(0)),
		},
		`kextload: loading "com.a" by kernelmanagerd (pid 12) failed with EPERM`: {
			Source: "endpoint_security", EventName: "kextload", Name: "com.a", ProcessName: "kernelmanagerd", Pid: ptr(int64(12)), Result: ptr(int64(-1)), Error: "EPERM",
		},
		`kextload: "com.a" loaded`:                 {Source: "unified_log", EventName: "kextload", Name: "com.a", Result: ptr(int64(0))},
		`module_load: "a\" loaded by init" loaded`: {Source: "kmsg", EventName: "module_load", Name: `a" loaded by init`},
	} {
		got, ok := trc1017().Match(&event)
		require.True(t, ok)
		require.Equal(t, want, got)
	}
}

// The store fills only the columns that the signature names.
func TestTRC1017ListsTheColumnsThatItReads(t *testing.T) {
	signature := trc1017()
	full := kmodquery.Event{Source: "ebpf", EventName: "security_kernel_read_file", Type: "kernel-module", Name: "dummy",
		Path: "/dummy.ko", Origin: "file", ProcessName: "insmod", Pid: ptr(int64(1)), UID: ptr(int64(2)),
		Result: ptr(int64(-1)), Error: "EPERM"}
	var named kmodquery.Event
	for _, name := range signature.Columns {
		column, ok := kmodquery.EventColumn(name)
		require.True(t, ok)
		reflect.ValueOf(column.Pointer(&named)).Elem().Set(reflect.ValueOf(column.Pointer(&full)).Elem())
	}
	want, _ := signature.Match(&full)
	got, ok := signature.Match(&named)
	require.True(t, ok)
	require.Equal(t, want, got)
}

//go:build linux

package bpf

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/stretchr/testify/require"
)

// What a record that is not of a locked kernel says is all read.
func TestDecodeUnread(t *testing.T) {
	raw := moduleModuleRecord{Header: header(moduleRecordKindRECORD_MODULE_LOAD)}
	got, err := Decode(bytesOf(raw))
	require.NoError(t, err)
	require.Zero(t, got.Unread)
	require.False(t, got.Unread.Has(UnreadTask|UnreadUntyped))

	raw.Header.Unread = moduleUnreadUNREAD_UNTYPED
	got, err = Decode(bytesOf(raw))
	require.NoError(t, err)
	require.True(t, got.Unread.Has(UnreadUntyped))
	require.False(t, got.Unread.Has(UnreadTask))
}

func TestDecodeImageFlags(t *testing.T) {
	got, err := Decode(bytesOf(moduleImageRecord{
		Header: header(moduleRecordKindRECORD_IMAGE), Size: 9, State: moduleImageStateIMAGE_UNREADABLE, Flags: 4,
	}))
	require.NoError(t, err)
	require.Equal(t, &Image{Attempt: 3, Size: 9, Flags: 4}, got.Image)
}

// The programs for a locked kernel ask no helper to read memory, and what they
// share with the reader is as it is in the other object.
func TestLockedObject(t *testing.T) {
	locked, err := loadLocked()
	require.NoError(t, err)
	module, err := loadModule()
	require.NoError(t, err)
	for name, program := range locked.Programs {
		require.Equal(t, ebpf.Tracing, program.Type, name)
		for _, instruction := range program.Instructions {
			if instruction.IsBuiltinCall() {
				require.NotContains(t, asm.BuiltinFunc(instruction.Constant).String(), "ProbeRead", name)
			}
		}
	}
	for _, name := range []string{moduleMapRecords, moduleMapImages, moduleMapCounters, moduleMapSettings, moduleMapDenied} {
		require.Contains(t, locked.Maps, name)
		require.Equal(t, module.Maps[name].Type, locked.Maps[name].Type, name)
		require.Equal(t, module.Maps[name].KeySize, locked.Maps[name].KeySize, name)
		require.Equal(t, module.Maps[name].ValueSize, locked.Maps[name].ValueSize, name)
		require.Equal(t, module.Maps[name].Flags, locked.Maps[name].Flags, name)
	}
}

// kernelWith is the BTF of a kernel that has these functions.
func kernelWith(t *testing.T, functions ...string) *btf.Spec {
	t.Helper()
	var types []btf.Type
	for _, name := range functions {
		types = append(types, &btf.Func{Name: name, Type: &btf.FuncProto{Return: &btf.Int{Name: "long", Size: 8}}, Linkage: btf.StaticFunc})
	}
	b, err := btf.NewBuilder(types, nil)
	require.NoError(t, err)
	spec, err := b.Spec()
	require.NoError(t, err)
	return spec
}

func TestLockedHooks(t *testing.T) {
	locked, err := loadLocked()
	require.NoError(t, err)
	programs := func(functions ...string) map[string]string {
		named := map[string]string{}
		for _, h := range lockedHooks(kernelWith(t, functions...)) {
			for _, c := range h.programs {
				require.Contains(t, locked.Programs, c.program)
				require.NotContains(t, named, c.program, "a program has one target")
				named[c.program] = c.symbol
			}
		}
		return named
	}
	const finit = systemCallPrefix + FinitModule
	with := programs(finit, "mod_verify_sig")
	require.Equal(t, finit, with["fexit_sys_finit_module"])
	require.Equal(t, "load_module", with["fexit_load_module"])
	require.Contains(t, with, "fexit_mod_verify_sig")
	require.NotContains(t, with, "fexit_load_module_result")
	require.NotContains(t, with, "fexit_sys_ia32_finit_module")

	without := programs("load_module")
	require.Equal(t, "load_module", without["fexit_load_module_result"])
	require.Equal(t, "free_module", without["fexit_free_module_result"])
	require.NotContains(t, without, "fexit_sys_finit_module")
	require.NotContains(t, without, "fexit_mod_verify_sig")
}

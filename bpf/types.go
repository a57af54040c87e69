//go:build linux

package bpf

import (
	"fmt"
	"strings"

	"github.com/cilium/ebpf/btf"
)

// kernelNames are the names in kernel_read_file_str and kernel_load_data_str that
// cannot be derived from the enumerator. A compressed module
// (READING_MODULE_COMPRESSED, from 7.2) is a kernel-module on earlier kernels, and
// here on all.
var kernelNames = map[string]string{
	"MODULE":                   "kernel-module",
	"MODULE_COMPRESSED":        "kernel-module",
	"POLICY":                   "security-policy",
	"FIRMWARE_PREALLOC_BUFFER": "firmware",
}

// enumerators returns the kernel's names of the values of an enumeration, which
// differ between kernels.
func enumerators(kernel *btf.Spec, name string) (map[uint32]string, error) {
	var enum *btf.Enum
	if err := kernel.TypeByName(name, &enum); err != nil {
		return nil, fmt.Errorf("find enum %s in the kernel's BTF: %w", name, err)
	}
	names := make(map[uint32]string, len(enum.Values))
	for _, value := range enum.Values {
		_, suffix, _ := strings.Cut(value.Name, "_")
		text, ok := kernelNames[suffix]
		if !ok {
			text = strings.ReplaceAll(strings.ToLower(suffix), "_", "-")
		}
		names[uint32(value.Value)] = text
	}
	return names, nil
}

// ReadFileType returns kernel_read_file_str's name of a ReadFile record's File.ID.
func (p *Programs) ReadFileType(id uint32) string { return typeName(p.readTypes, id) }

// LoadDataType returns kernel_load_data_str's name of a LoadData record's File.ID.
func (p *Programs) LoadDataType(id uint32) string { return typeName(p.loadTypes, id) }

func typeName(names map[uint32]string, id uint32) string {
	if name, ok := names[id]; ok {
		return name
	}
	return fmt.Sprintf("unknown-%d", id)
}

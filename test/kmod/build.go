//go:build linux

package kmod

import (
	"bytes"
	"debug/elf"
	"embed"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"runtime"

	"github.com/cilium/ebpf/btf"
)

//go:embed *.o
var objects embed.FS

// The modules.
const (
	Firmware = "firmware" // its init makes the kernel read /lib/firmware/kmodquery-test.bin
	Helper   = "helper"   // its init has the kernel start the program /run/kmodquery-helper, and fails with ENODEV if that does
	Nested   = "nested"   // its init loads another module and fails with ENODEV
	Hidden   = "hidden"   // its init removes it from the kernel's list; it cannot be unloaded
	Ghost    = "ghost"    // the same, and removes its folder from sysfs
	Unformed = "unformed" // its parameter "state" sets its own state: StateUnformed hides it
	Untaint  = "untaint"  // its init clears bits of the kernel's taint and fails with ENODEV
	Filter   = "filter"   // it filters the BPF records about one process; for amd64
	Patch    = "patch"    // the same without ftrace; for amd64
)

// Values of the parameter "state" of Unformed.
const (
	StateLive     = 0
	StateUnformed = 3
)

// thisModule is the section that becomes the kernel's struct module.
const thisModule = ".gnu.linkonce.this_module"

// Build returns one of the modules for the running kernel. Its name in the kernel is
// "kmodquery_" and name. set has the values of the module's variables, by their names.
// The variables are of type unsigned long. Hidden and Ghost have the variable "target":
// if it is the address of another module's struct module, they hide that module instead
// of themselves, and their init fails with ENODEV.
func Build(name string, set map[string]uint64) ([]byte, error) {
	return BuildAs(name, "kmodquery_"+name, set)
}

// BuildAs is Build for a module with another name in the kernel, of up to 55 bytes.
func BuildAs(name, known string, set map[string]uint64) ([]byte, error) {
	layout, err := readLayout()
	if err != nil {
		return nil, err
	}
	variables := maps.Clone(set)
	if variables == nil {
		variables = map[string]uint64{}
	}
	object := name
	switch name {
	case Ghost:
		object = Hidden
		variables["kobject_offset"] = layout.kobject
		fallthrough
	case Hidden:
		variables["list_offset"] = layout.list
	}
	image, err := objects.ReadFile(object + "_" + runtime.GOARCH + ".o")
	if err != nil {
		return nil, fmt.Errorf("find module %s: %w", name, err)
	}
	file, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return nil, fmt.Errorf("read module %s: %w", name, err)
	}
	if err := fit(image, file, layout, known); err != nil {
		return nil, fmt.Errorf("fit module %s to the kernel: %w", name, err)
	}
	for variable, value := range variables {
		if err := assign(image, file, variable, value); err != nil {
			return nil, fmt.Errorf("set %s of module %s: %w", variable, name, err)
		}
	}
	return image, nil
}

// A layout has offsets in the running kernel's struct module.
type layout struct{ size, name, init, exit, list, kobject uint64 }

func readLayout() (layout, error) {
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		return layout{}, fmt.Errorf("read the kernel's BTF: %w", err)
	}
	var module *btf.Struct
	if err := kernel.TypeByName("module", &module); err != nil {
		return layout{}, fmt.Errorf("find struct module: %w", err)
	}
	l := layout{size: uint64(module.Size)}
	for _, member := range module.Members {
		switch member.Name {
		case "name":
			l.name = uint64(member.Offset.Bytes())
		case "init":
			l.init = uint64(member.Offset.Bytes())
		case "exit":
			l.exit = uint64(member.Offset.Bytes())
		case "list":
			l.list = uint64(member.Offset.Bytes())
		case "mkobj": // a struct module_kobject, which begins with the kobject
			l.kobject = uint64(member.Offset.Bytes())
		}
	}
	if l.name == 0 || l.init == 0 || l.exit == 0 || l.list == 0 || l.kobject == 0 {
		return layout{}, errors.New("struct module lacks one of name, init, exit, list and mkobj")
	}
	return l, nil
}

// fit changes in place the size of the section that becomes struct module, the name in
// it, and the offsets of its two pointers.
func fit(image []byte, file *elf.File, l layout, name string) error {
	order := binary.LittleEndian
	headers := order.Uint64(image[40:]) // e_shoff
	found := 0
	for i, section := range file.Sections {
		switch section.Name {
		case thisModule:
			if l.size > section.Size {
				return fmt.Errorf("struct module has %d bytes, more than %d", l.size, section.Size)
			}
			order.PutUint64(image[headers+uint64(i)*64+32:], l.size) // sh_size
			copy(image[section.Offset+l.name:], name+"\x00")
			found++
		case ".rela" + thisModule:
			for at := section.Offset; at < section.Offset+section.Size; at += 24 {
				place := map[uint64]uint64{0: l.init, 8: l.exit}[order.Uint64(image[at:])]
				order.PutUint64(image[at:], place) // r_offset
			}
			found++
		}
	}
	if found != 2 {
		return fmt.Errorf("it has no section %s with relocations", thisModule)
	}
	return nil
}

// assign changes the initial value of a variable in place.
func assign(image []byte, file *elf.File, variable string, value uint64) error {
	symbols, err := file.Symbols()
	if err != nil {
		return err
	}
	for _, symbol := range symbols {
		if symbol.Name != variable || int(symbol.Section) >= len(file.Sections) {
			continue
		}
		section := file.Sections[symbol.Section]
		if section.Type != elf.SHT_PROGBITS || symbol.Size != 8 {
			return errors.New("it is not an initialised unsigned long")
		}
		binary.LittleEndian.PutUint64(image[section.Offset+symbol.Value:], value)
		return nil
	}
	return errors.New("there is no such variable")
}

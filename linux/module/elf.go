package module

import (
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
)

// A section is a section header of either class.
type section struct {
	name                uint32
	flags, offset, size uint64
}

const modinfoName = ".modinfo\x00"

// modinfo returns the section .modinfo, or nil if there is none. whole reports
// whether it returned all of it.
//
// It reads as kernel/module/main.c does: it takes the number of sections from the
// header, ignores a section's type and its compression flag, and skips sections that
// an older kernel would not load. Package debug/elf reads more, and is not meant for
// untrusted input.
func modinfo(image *io.SectionReader) (text []byte, whole bool, err error) {
	sections, names, err := readSections(image)
	if err != nil {
		return nil, false, err
	}
	var found *section
	for i := range sections[1:] {
		s := &sections[1+i]
		if !s.isNamed(modinfoName, names, image) {
			continue
		}
		// Older kernels use the first section that is loaded. Newer ones refuse
		// a module with two.
		if s.flags&uint64(elf.SHF_ALLOC) != 0 {
			found = s
			break
		}
		if found == nil {
			found = s
		}
	}
	if found == nil {
		return nil, true, nil
	}
	there := uint64(image.Size())
	if found.offset > there {
		return nil, false, errors.New("read .modinfo: section is outside the module")
	}
	size := min(found.size, there-found.offset, maxModinfo)
	text = make([]byte, size)
	if err := readFull(image, text, int64(found.offset)); err != nil {
		return nil, false, err
	}
	return text, size == found.size, nil
}

// isNamed reports whether the section has a name, which must end in NUL.
func (s *section) isNamed(name string, names *section, image *io.SectionReader) bool {
	p := make([]byte, len(name))
	if names.offset > uint64(image.Size()) || uint64(s.name)+uint64(len(p)) > names.size {
		return false
	}
	return readFull(image, p, int64(names.offset)+int64(s.name)) == nil && string(p) == name
}

// readSections returns the section headers, at least one, and the header of the
// section with their names.
func readSections(image *io.SectionReader) ([]section, *section, error) {
	ident := make([]byte, elf.EI_NIDENT)
	if err := readFull(image, ident, 0); err != nil {
		return nil, nil, err
	}
	if string(ident[:len(elf.ELFMAG)]) != elf.ELFMAG {
		return nil, nil, errors.New("read ELF header: not an ELF file")
	}
	var order binary.ByteOrder
	switch elf.Data(ident[elf.EI_DATA]) {
	case elf.ELFDATA2LSB:
		order = binary.LittleEndian
	case elf.ELFDATA2MSB:
		order = binary.BigEndian
	default:
		return nil, nil, errors.New("read ELF header: unknown byte order")
	}
	switch elf.Class(ident[elf.EI_CLASS]) {
	case elf.ELFCLASS32:
		var h elf.Header32
		if err := decode(image, 0, order, &h); err != nil {
			return nil, nil, err
		}
		return sectionsAt(image, order, uint64(h.Shoff), h.Shentsize, h.Shnum, h.Shstrndx, section32)
	case elf.ELFCLASS64:
		var h elf.Header64
		if err := decode(image, 0, order, &h); err != nil {
			return nil, nil, err
		}
		return sectionsAt(image, order, h.Shoff, h.Shentsize, h.Shnum, h.Shstrndx, section64)
	default:
		return nil, nil, errors.New("read ELF header: unknown class")
	}
}

// sectionsAt reads the table of section headers. Their number has 16 bits, so the
// table has at most 4 MiB.
func sectionsAt[T any](image *io.SectionReader, order binary.ByteOrder, offset uint64,
	size, count, names uint16, convert func(T) section) ([]section, *section, error) {
	there := uint64(image.Size())
	switch {
	case int(size) != binary.Size(*new(T)):
		return nil, nil, errors.New("read ELF sections: wrong header size")
	case offset >= there || uint64(count)*uint64(size) > there-offset:
		return nil, nil, errors.New("read ELF sections: table is outside the module")
	case names == 0 || names >= count:
		return nil, nil, errors.New("read ELF sections: no section names")
	}
	table := make([]T, count)
	if err := decode(image, int64(offset), order, table); err != nil {
		return nil, nil, err
	}
	sections := make([]section, count)
	for i := range sections {
		sections[i] = convert(table[i])
	}
	return sections, &sections[names], nil
}

func section32(s elf.Section32) section {
	return section{s.Name, uint64(s.Flags), uint64(s.Off), uint64(s.Size)}
}

func section64(s elf.Section64) section {
	return section{s.Name, s.Flags, s.Off, s.Size}
}

// decode reads a value of fixed size, or a slice of such values, at an offset.
func decode(r io.ReaderAt, off int64, order binary.ByteOrder, value any) error {
	p := make([]byte, binary.Size(value))
	if err := readFull(r, p, off); err != nil {
		return err
	}
	_, err := binary.Decode(p, order, value)
	return err
}

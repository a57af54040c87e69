package module

import (
	"bytes"
	"compress/gzip"
	"context"
	"debug/elf"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
	"github.com/ulikunitz/xz"
)

// A testSection is a section of a module that makeELF makes.
type testSection struct {
	name  string
	flags elf.SectionFlag
	data  string
}

var testModinfo = testSection{".modinfo", elf.SHF_ALLOC, strings.Join([]string{
	"version=1.2", "license=GPL v2", "license=Proprietary", "author=some\nbody", "description=license=MIT",
	"srcversion=0123456789ABCDEF", "\x00intree=Y", "name=sample", "vermagic=6.1.0 SMP \xff ", "",
}, "\x00")}

// testImage is the Image of a module with testModinfo.
var testImage = Image{
	Name: "sample", Version: "1.2", Srcversion: "0123456789ABCDEF", Vermagic: "6.1.0 SMP \xff ", License: "GPL v2",
	Intree: new(int64(1)),
}

func elf64(sections ...testSection) []byte {
	return makeELF(elf.ELFCLASS64, binary.LittleEndian, sections...)
}

// makeELF returns a relocatable file: the header, the sections, and their headers.
func makeELF(class elf.Class, order binary.ByteOrder, sections ...testSection) []byte {
	headerSize := binary.Size(elf.Header64{})
	if class == elf.ELFCLASS32 {
		headerSize = binary.Size(elf.Header32{})
	}
	data := elf.ELFDATA2LSB
	if order == binary.ByteOrder(binary.BigEndian) {
		data = elf.ELFDATA2MSB
	}
	image := make([]byte, headerSize)
	names := "\x00"
	table := []section{{}}
	add := func(s testSection) {
		table = append(table, section{uint32(len(names)), uint64(s.flags), uint64(len(image)), uint64(len(s.data))})
		names += s.name + "\x00"
		image = append(image, s.data...)
	}
	for _, s := range sections {
		add(s)
	}
	nameAt := len(names)
	names += ".shstrtab\x00"
	table = append(table, section{uint32(nameAt), 0, uint64(len(image)), uint64(len(names))})
	image = append(image, names...)

	var ident [elf.EI_NIDENT]byte
	copy(ident[:], elf.ELFMAG)
	ident[elf.EI_CLASS], ident[elf.EI_DATA], ident[elf.EI_VERSION] = byte(class), byte(data), byte(elf.EV_CURRENT)
	count := uint16(len(table))
	var header any
	if class == elf.ELFCLASS32 {
		header = elf.Header32{Ident: ident, Type: uint16(elf.ET_REL), Shoff: uint32(len(image)),
			Shentsize: 40, Shnum: count, Shstrndx: count - 1}
	} else {
		header = elf.Header64{Ident: ident, Type: uint16(elf.ET_REL), Shoff: uint64(len(image)),
			Shentsize: 64, Shnum: count, Shstrndx: count - 1}
	}
	start, err := binary.Append(nil, order, header)
	if err != nil {
		panic(err)
	}
	copy(image, start)
	for _, s := range table {
		kind := uint32(elf.SHT_PROGBITS)
		if s == (section{}) {
			kind = 0
		}
		var raw any = elf.Section64{Name: s.name, Type: kind, Flags: s.flags, Off: s.offset, Size: s.size}
		if class == elf.ELFCLASS32 {
			raw = elf.Section32{Name: s.name, Type: kind, Flags: uint32(s.flags), Off: uint32(s.offset), Size: uint32(s.size)}
		}
		if image, err = binary.Append(image, order, raw); err != nil {
			panic(err)
		}
	}
	return image
}

// sign appends a signature as scripts/sign-file does.
func sign(image, message []byte) []byte {
	return signWith(image, message, trailer{IDType: idTypePKCS7, Size: uint32(len(message))})
}

func signWith(image, message []byte, t trailer) []byte {
	signed := append(bytes.Clone(image), message...)
	signed, err := binary.Append(signed, binary.BigEndian, t)
	if err != nil {
		panic(err)
	}
	return append(signed, marker...)
}

// testFile reads a file of testdata. Its README says where they come from.
func testFile(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	require.NoError(t, err)
	return b
}

func compressXZ(t testing.TB, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := xz.WriterConfig{CheckSum: xz.CRC32, DictCap: 1 << 20}.NewWriter(&out)
	require.NoError(t, err)
	return closeInto(t, w, &out, data)
}

func compressZSTD(t testing.TB, data []byte, options ...zstd.EOption) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := zstd.NewWriter(&out, append(options, zstd.WithEncoderConcurrency(1))...)
	require.NoError(t, err)
	return closeInto(t, w, &out, data)
}

func compressGzip(t testing.TB, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	w.Name = "sample.ko"
	return closeInto(t, w, &out, data)
}

func closeInto(t testing.TB, w io.WriteCloser, out *bytes.Buffer, data []byte) []byte {
	t.Helper()
	_, err := w.Write(data)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return out.Bytes()
}

func readBytes(t testing.TB, b []byte) Image {
	t.Helper()
	m, err := Read(context.Background(), bytes.NewReader(b), int64(len(b)))
	require.NoError(t, err)
	return m
}

func sectionReader(b []byte) *io.SectionReader {
	return io.NewSectionReader(bytes.NewReader(b), 0, int64(len(b)))
}

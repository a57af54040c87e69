package module

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestModinfo(t *testing.T) {
	const alloc = elf.SHF_ALLOC
	entry := func(flags elf.SectionFlag, text string) testSection { return testSection{".modinfo", flags, text} }
	change := func(b []byte, off int, with ...byte) []byte {
		copy(b[off:], with)
		return b
	}
	// Of a 64-bit header of little endian.
	const shoff, shentsize, shnum, shstrndx = 0x28, 0x3a, 0x3c, 0x3e
	one := entry(alloc, "license=GPL\x00")
	table := func(b []byte) int { return int(binary.LittleEndian.Uint64(b[shoff:])) }

	for name, c := range map[string]struct {
		image []byte
		text  string
		cut   bool
		fails bool
	}{
		"there":                     {image: elf64(one), text: "license=GPL\x00"},
		"none":                      {image: elf64(testSection{".modinfo.", alloc, "a=b\x00"}, testSection{"modinfo", alloc, "a=b\x00"})},
		"empty":                     {image: elf64(entry(alloc, ""))},
		"first of two":              {image: elf64(one, entry(alloc, "x=y\x00")), text: "license=GPL\x00"},
		"the one that is loaded":    {image: elf64(entry(0, "x=y\x00"), one), text: "license=GPL\x00"},
		"the one that is there":     {image: elf64(entry(0, "x=y\x00")), text: "x=y\x00"},
		"compressed in name only":   {image: elf64(entry(alloc|elf.SHF_COMPRESSED, "license=GPL\x00")), text: "license=GPL\x00"},
		"large":                     {image: elf64(entry(alloc, strings.Repeat("x", maxModinfo+1))), text: strings.Repeat("x", maxModinfo), cut: true},
		"ends in its header":        {image: elf64(one)[:63], fails: true},
		"ends in its first section": {image: elf64(one)[:70], fails: true},
		"ends in its last header":   {image: bytes.TrimSuffix(elf64(one), []byte{0}), fails: true},
		"class":                     {image: change(elf64(one), elf.EI_CLASS, 3), fails: true},
		"byte order":                {image: change(elf64(one), elf.EI_DATA, 0), fails: true},
		"magic":                     {image: change(elf64(one), 0, 'E'), fails: true},
		"no sections":               {image: change(elf64(one), shnum, 0, 0), fails: true},
		"too many sections":         {image: change(elf64(one), shnum, 0xff, 0xff), fails: true},
		"section header size":       {image: change(elf64(one), shentsize, 40), fails: true},
		"no names":                  {image: change(elf64(one), shstrndx, 0), fails: true},
		"names are no section":      {image: change(elf64(one), shstrndx, 9), fails: true},
		"sections far outside":      {image: change(elf64(one), shoff, bytes.Repeat([]byte{0xff}, 8)...), fails: true},
		"sections negative":         {image: change(elf64(one), shoff, 0, 0, 0, 0, 0, 0, 0, 0x80), fails: true},
		"name far outside":          {image: func() []byte { b := elf64(one); return change(b, table(b)+64, 0xff, 0xff, 0xff, 0xff) }()},
		"names far outside":         {image: func() []byte { b := elf64(one); return change(b, table(b)+2*64+24, bytes.Repeat([]byte{0xff}, 16)...) }()},
		"reaches outside":           {image: func() []byte { b := elf64(one); return change(b, table(b)+64+32, bytes.Repeat([]byte{0xff}, 8)...) }(), text: "*", cut: true},
		"lies outside":              {image: func() []byte { b := elf64(one); return change(b, table(b)+64+24, bytes.Repeat([]byte{0xff}, 16)...) }(), fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			text, whole, err := modinfo(sectionReader(c.image))
			if c.fails {
				require.Error(t, err)
				return
			}
			require.NoError(t, err)
			if c.text == "*" {
				c.text = string(c.image[64:])
			}
			require.Equal(t, c.text, string(text))
			require.Equal(t, !c.cut, whole)
		})
	}
}

// Every section has a name to compare and an impossible size.
func TestModinfoWithTheMostSections(t *testing.T) {
	const count = 1<<16 - 1
	image := elf64(testSection{".modinfp", elf.SHF_ALLOC, "license=GPL\x00"})
	old := int(binary.LittleEndian.Uint64(image[0x28:]))
	table := image[old:]
	names := bytes.Clone(table[2*64:])
	bait := bytes.Clone(table[64:128])
	binary.LittleEndian.PutUint64(bait[32:], 1<<62)
	many := append(bytes.Clone(image[:old]), names...)
	many = append(many, names...)
	for range count - 2 {
		many = append(many, bait...)
	}
	binary.LittleEndian.PutUint16(many[0x3c:], count)
	binary.LittleEndian.PutUint16(many[0x3e:], 1)

	start := time.Now()
	require.Less(t, allocated(func() {
		text, whole, err := modinfo(sectionReader(many))
		require.NoError(t, err)
		require.True(t, whole)
		require.Nil(t, text)
	}), uint64(16<<20))
	require.Less(t, time.Since(start), 20*time.Second)
}

func TestReadModinfo(t *testing.T) {
	yes, no := new(int64(1)), new(int64(0))
	for name, c := range map[string]struct {
		text string
		cut  bool
		want Image
	}{
		"nothing":             {"", false, Image{Intree: no}},
		"no value":            {"license\x00version=\x00", false, Image{Intree: no}},
		"first counts":        {"license=\x00license=GPL\x00", false, Image{Intree: no}},
		"key is whole":        {"sublicense=x\x00license =y\x00licens=z\x00", false, Image{Intree: no}},
		"value has the sign":  {"version=a=b\x00", false, Image{Version: "a=b", Intree: no}},
		"no NUL at the end":   {"version=1", false, Image{Version: "1", Intree: no}},
		"intree of any value": {"intree=N\x00", false, Image{Intree: yes}},
		"cut": {"version=1\x00license=GP", true,
			Image{Version: "1", Missing: []string{"srcversion", "vermagic", "license", "intree"}}},
		"cut, all there": {"version=1\x00srcversion=2\x00vermagic=3\x00license=4\x00intree=Y\x00rest", true,
			Image{Version: "1", Srcversion: "2", Vermagic: "3", License: "4", Intree: yes}},
	} {
		t.Run(name, func(t *testing.T) {
			var m Image
			m.readModinfo([]byte(c.text), !c.cut)
			require.Equal(t, c.want, m)
		})
	}
}

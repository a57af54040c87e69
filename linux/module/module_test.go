package module

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var (
	ofModinfo   = []string{"version", "srcversion", "vermagic", "license", "intree"}
	ofSignature = []string{"signer", "signature_key_id", "signature_hash"}
)

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

func TestRead(t *testing.T) {
	plain := elf64(testModinfo)
	signed := sign(plain, testFile(t, "issuer.der"))
	signature := &Signature{Signer: "kmodquery test key", KeyID: "8F:3A:5C:07:11:DE:42:0B", Hash: "sha256"}
	unread := append(append([]string{"image_sha256"}, ofSignature...), ofModinfo...)

	for name, c := range map[string]struct {
		bytes, image []byte
		want         Image
	}{
		"plain":      {plain, plain, testImage},
		"signed":     {signed, signed, with(testImage, func(m *Image) { m.Signed, m.Signature = true, signature })},
		"gzip":       {compressGzip(t, plain), plain, testImage},
		"xz":         {compressXZ(t, plain), plain, testImage},
		"zstd":       {compressZSTD(t, plain), plain, testImage},
		"signed, xz": {compressXZ(t, signed), signed, with(testImage, func(m *Image) { m.Signed, m.Signature = true, signature })},
		"signed twice": {sign(sign(plain, testFile(t, "keyid.der")), testFile(t, "issuer.der")), nil,
			with(testImage, func(m *Image) { m.Signed, m.Signature = true, signature })},
		"compressed twice": {compressXZ(t, compressXZ(t, plain)), compressXZ(t, plain), Image{Missing: ofModinfo}},
		"text":             {[]byte("#!/bin/sh\n"), nil, Image{Missing: ofModinfo}},
		"nothing":          {nil, nil, Image{Missing: ofModinfo}},
		"only a marker":    {[]byte(marker), nil, Image{Missing: ofModinfo}},
		"broken gzip":      {compressGzip(t, plain)[:50], []byte{}, Image{Missing: unread}},
		"broken xz":        {compressXZ(t, plain)[:50], []byte{}, Image{Missing: unread}},
		"broken zstd":      {compressZSTD(t, plain)[:50], []byte{}, Image{Missing: unread}},
	} {
		t.Run(name, func(t *testing.T) {
			c.want.SHA256 = sum(c.bytes)
			switch {
			case c.image == nil:
				c.want.ImageSHA256 = c.want.SHA256
			case len(c.image) > 0:
				c.want.ImageSHA256 = sum(c.image)
			}
			require.Equal(t, c.want, readBytes(t, c.bytes))
		})
	}
}

func with(m Image, change func(*Image)) Image {
	change(&m)
	return m
}

func TestReadCompiledModule(t *testing.T) {
	b, err := os.ReadFile("../../test/kmod/firmware_amd64.o")
	require.NoError(t, err)
	f, err := elf.NewFile(bytes.NewReader(b))
	require.NoError(t, err)
	text, err := f.Section(".modinfo").Data()
	require.NoError(t, err)
	m := readBytes(t, b)
	require.Empty(t, m.Missing)
	require.NotEmpty(t, m.License)
	require.Contains(t, "\x00"+string(text), "\x00license="+m.License+"\x00")
}

func TestReadClassesAndByteOrders(t *testing.T) {
	for _, class := range []elf.Class{elf.ELFCLASS32, elf.ELFCLASS64} {
		for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
			t.Run(class.String()+" "+order.String(), func(t *testing.T) {
				b := makeELF(class, order, testSection{".text", elf.SHF_ALLOC, "code"}, testModinfo)
				want := testImage
				want.SHA256 = sum(b)
				want.ImageSHA256 = want.SHA256
				require.Equal(t, want, readBytes(t, b))
			})
		}
	}
}

func TestReadNegativeSize(t *testing.T) {
	_, err := Read(context.Background(), bytes.NewReader(nil), -1)
	require.Error(t, err)
}

// A brokenReader fails at an offset.
type brokenReader struct {
	io.ReaderAt
	at  int64
	err error
}

func (r brokenReader) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > r.at {
		return 0, r.err
	}
	return r.ReaderAt.ReadAt(p, off)
}

func TestReadReturnsErrorsOfItsReader(t *testing.T) {
	b := elf64(testModinfo)
	broken := errors.New("disk is on fire")
	m, err := Read(context.Background(), brokenReader{bytes.NewReader(b), 10, broken}, int64(len(b)))
	require.ErrorIs(t, err, broken)
	require.Empty(t, m.SHA256)

	_, err = Read(context.Background(), bytes.NewReader(b), int64(len(b))+1)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
}

// An onceReader can be read once, as a file that is truncated after that.
type onceReader struct {
	io.ReaderAt
	read, size int64
}

func (r *onceReader) ReadAt(p []byte, off int64) (int, error) {
	if r.read >= r.size {
		return 0, io.EOF
	}
	n, err := r.ReaderAt.ReadAt(p, off)
	r.read += int64(n)
	return n, err
}

func TestReadKeepsTheHashIfTheReaderFailsLater(t *testing.T) {
	for _, b := range [][]byte{elf64(testModinfo), compressXZ(t, elf64(testModinfo))} {
		r := &onceReader{ReaderAt: bytes.NewReader(b), size: int64(len(b))}
		m, err := Read(context.Background(), r, int64(len(b)))
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		require.Equal(t, sum(b), m.SHA256)
	}
}

func TestReadHonoursItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	b := elf64(testModinfo)
	_, err := Read(ctx, bytes.NewReader(b), int64(len(b)))
	require.ErrorIs(t, err, context.Canceled)

	// During decompression, after all bytes were read.
	bomb := zstdBomb(64 << 20)
	count := &cancelReader{ReaderAt: bytes.NewReader(bomb)}
	_, err = Read(context.Background(), count, int64(len(bomb)))
	require.NoError(t, err)
	ctx, cancel = context.WithCancel(context.Background())
	r := &cancelReader{ReaderAt: bytes.NewReader(bomb), at: count.reads, cancel: cancel}
	m, err := Read(ctx, r, int64(len(bomb)))
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, sum(bomb), m.SHA256)
	require.Empty(t, m.ImageSHA256)
}

// A cancelReader cancels a context during one of its reads.
type cancelReader struct {
	io.ReaderAt
	reads, at int
	cancel    func()
}

func (r *cancelReader) ReadAt(p []byte, off int64) (int, error) {
	if r.reads++; r.reads == r.at {
		r.cancel()
	}
	return r.ReaderAt.ReadAt(p, off)
}

func TestReadDoesNotKeepAnImageInMemory(t *testing.T) {
	// maxImage does not bound it, because it is not compressed: a sparse file.
	f, err := os.Create(filepath.Join(t.TempDir(), "module"))
	require.NoError(t, err)
	defer f.Close()
	head := elf64(testModinfo)
	_, err = f.Write(head)
	require.NoError(t, err)
	const size = maxImage + 1<<20
	require.NoError(t, f.Truncate(size))
	var m Image
	require.Less(t, allocated(func() {
		m, err = Read(context.Background(), f, size)
	}), uint64(1<<20))
	require.NoError(t, err)
	require.Equal(t, "GPL v2", m.License)
	require.Len(t, m.SHA256, 64)
}

func TestReadCutsLongValues(t *testing.T) {
	long := strings.Repeat("x", maxValue+1)
	m := readBytes(t, elf64(testSection{".modinfo", elf.SHF_ALLOC, "license=" + long + "\x00version=" + long[1:] + "\x00"}))
	require.Equal(t, long[1:], m.License)
	require.Equal(t, long[1:], m.Version)
	require.Equal(t, []string{"license"}, m.Missing)
}

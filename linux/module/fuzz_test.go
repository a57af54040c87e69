package module

import (
	"bytes"
	"compress/flate"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/binary"
	"io"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
)

// slack bounds the bytes that a fuzzer itself allocates.
const slack = 8 << 20

func FuzzRead(f *testing.F) {
	plain := elf64(testModinfo)
	f.Add(plain)
	f.Add(sign(plain, testFile(f, "issuer.der")))
	f.Add(compressXZ(f, plain))
	f.Add(compressGzip(f, plain))
	f.Add(compressZSTD(f, plain))
	f.Fuzz(func(t *testing.T, b []byte) {
		var first Image
		require.Less(t, allocated(func() { first = readBytes(t, b) }), uint64(maxKept+maxDictionary+slack))
		require.Equal(t, first, readBytes(t, b))
		require.Equal(t, sum(b), first.SHA256)
		for _, value := range []string{first.Name, first.Version, first.Srcversion, first.Vermagic, first.License} {
			require.LessOrEqual(t, len(value), maxValue)
		}
		require.LessOrEqual(t, len(first.Missing), 9)
		if first.ImageSHA256 == "" {
			require.Contains(t, first.Missing, "image_sha256")
		}
	})
}

func FuzzModinfo(f *testing.F) {
	f.Add(elf64(testModinfo))
	f.Add(makeELF(elf.ELFCLASS32, binary.BigEndian, testModinfo))
	f.Fuzz(func(t *testing.T, b []byte) {
		var text []byte
		var whole bool
		var err error
		require.Less(t, allocated(func() { text, whole, err = modinfo(sectionReader(b)) }), uint64(slack+len(b)*3))
		if err == nil {
			require.True(t, bytes.Contains(b, text))
			var m Image
			m.readModinfo(text, whole)
		}
	})
}

func FuzzPKCS7(f *testing.F) {
	for _, name := range []string{"issuer.der", "keyid.der", "certificate.der"} {
		f.Add(testFile(f, name))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		b = b[:min(len(b), maxSignature)]
		var m Image
		require.Less(t, allocated(func() { m.readPKCS7(b) }), uint64(slack))
		if m.Signature == nil {
			require.Len(t, m.Missing, 3)
			return
		}
		require.NotEmpty(t, m.Signature.Hash)
		require.LessOrEqual(t, len(m.Signature.Signer), maxValue)
	})
}

// fuzzDecompressor verifies the bounds of a decompressor, and compares its output with
// that of another reader of the format.
func fuzzDecompressor(f *testing.F, open decompressor, other func([]byte) ([]byte, error), seeds ...[]byte) {
	for _, s := range seeds {
		f.Add(s)
	}
	const limit = 1 << 20
	f.Fuzz(func(t *testing.T, b []byte) {
		out := &unpacked{ctx: context.Background(), limit: limit, sum: sha256.New()}
		var err error
		// Not through guard: a panic must fail the test.
		require.Less(t, allocated(func() {
			if out.run, err = open(sectionReader(b)); err == nil {
				err = out.run(out)
			}
		}), uint64(limit+maxDictionary+slack))
		require.LessOrEqual(t, out.size, int64(limit))
		if err != nil || other == nil {
			return
		}
		got, err := io.ReadAll(io.NewSectionReader(out, 0, out.size))
		require.NoError(t, err)
		if want, err := other(b); err == nil {
			require.True(t, bytes.Equal(want, got))
		}
	})
}

func FuzzGzip(f *testing.F) {
	fuzzDecompressor(f, gunzip, func(b []byte) ([]byte, error) {
		if b[3]&gzipHasName != 0 {
			b = b[bytes.IndexByte(b[10:], 0)+1:]
		}
		return io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(b[10:])), 2<<20))
	}, compressGzip(f, sample(500)), gzipBomb(f, 4<<20))
}

func FuzzXZ(f *testing.F) {
	fuzzDecompressor(f, unxz, nil, compressXZ(f, sample(500)), xzBomb(f, 4<<20))
}

func FuzzZSTD(f *testing.F) {
	fuzzDecompressor(f, unzstd, func(b []byte) ([]byte, error) {
		r, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(2<<20))
		if err != nil {
			return nil, err
		}
		defer r.Close()
		end, tail, err := zstdEnd(sectionReader(b))
		if err != nil || len(tail) > 0 {
			return nil, io.ErrUnexpectedEOF
		}
		return r.DecodeAll(b[:end], nil)
	}, compressZSTD(f, sample(500)), zstdRaw(sample(50), true), zstdBomb(1<<20))
}

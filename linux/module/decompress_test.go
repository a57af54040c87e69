package module

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"context"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"runtime/metrics"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/ulikunitz/xz"

	"github.com/kmodquery/kmodquery/test/race"
)

// allocated returns the number of bytes that a function allocates. That is more than
// it holds at any time.
func allocated(run func()) uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	before := sample[0].Value.Uint64()
	run()
	metrics.Read(sample)
	return sample[0].Value.Uint64() - before
}

func decompressBytes(t testing.TB, b []byte, limit int64) ([]byte, error) {
	t.Helper()
	out, err := decompress(context.Background(), sectionReader(b), limit)
	if err != nil {
		return nil, err
	}
	got, err := io.ReadAll(io.NewSectionReader(out, 0, out.size))
	require.NoError(t, err)
	require.Len(t, got, int(out.size))
	return got, nil
}

// sample returns bytes that are moderately compressible.
func sample(size int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(r.IntN(8)) << (i >> 12 & 3)
	}
	return b
}

func TestDecompressIgnoresTrailingBytes(t *testing.T) {
	want := sample(race.Scale(300_000))
	for name, compressed := range map[string][]byte{
		"gzip": compressGzip(t, want), "xz": compressXZ(t, want), "zstd": compressZSTD(t, want),
	} {
		for tail, b := range map[string][]byte{
			"nothing": nil, "a NUL": {0}, "NULs": make([]byte, 9), "text": []byte("tail"), "NUL and text": []byte("\x00tail"),
			"another stream": compressed,
		} {
			t.Run(name+", "+tail, func(t *testing.T) {
				got, err := decompressBytes(t, append(bytes.Clone(compressed), b...), maxImage)
				require.NoError(t, err)
				require.True(t, bytes.Equal(want, got))
			})
		}
	}
}

func TestDecompressLimit(t *testing.T) {
	want := sample(300_000)
	for name, compressed := range map[string][]byte{
		"gzip": compressGzip(t, want), "xz": compressXZ(t, want), "zstd": compressZSTD(t, want),
	} {
		t.Run(name, func(t *testing.T) {
			got, err := decompressBytes(t, compressed, int64(len(want)))
			require.NoError(t, err)
			require.True(t, bytes.Equal(want, got))
			_, err = decompressBytes(t, compressed, int64(len(want))-1)
			require.ErrorIs(t, err, errTooLarge)
		})
	}
}

func TestDecompressEndsEarly(t *testing.T) {
	want := sample(40_000)
	for name, compressed := range map[string][]byte{
		"gzip": compressGzip(t, want)[:len(compressGzip(t, want))-8], "xz": compressXZ(t, want),
		"zstd": compressZSTD(t, want)[:len(compressZSTD(t, want))-zstdChecksumSize],
	} {
		t.Run(name, func(t *testing.T) {
			for size := 0; size < len(compressed); size += 1 + len(compressed)/500 {
				_, err := decompressBytes(t, compressed[:size], maxImage)
				require.Error(t, err, "%d of %d bytes", size, len(compressed))
			}
		})
	}
}

// The kernel accepts input that the format's specification does not allow.
func TestDecompressAcceptsWhatTheKernelAccepts(t *testing.T) {
	want := sample(40_000)
	for name, c := range map[string]struct {
		bytes []byte
		fails bool
	}{
		"gzip, wrong checksum":   {bytes: func() []byte { b := compressGzip(t, want); b[len(b)-5]++; return b }()},
		"gzip, no checksum":      {bytes: func() []byte { b := compressGzip(t, want); return b[:len(b)-8] }()},
		"gzip, name without end": {bytes: []byte("\x1f\x8b\x08\x08\x00\x00\x00\x00\x00\x00name"), fails: true},
		"gzip, extra field": {bytes: func() []byte {
			var out bytes.Buffer
			w := gzip.NewWriter(&out)
			w.Extra = []byte("\xff\xff\xff\xff")
			return closeInto(t, w, &out, want)
		}(), fails: true},
		"zstd, no checksum":         {bytes: func() []byte { b := compressZSTD(t, want); return b[:len(b)-4] }()},
		"zstd, half a checksum":     {bytes: func() []byte { b := compressZSTD(t, want); return b[:len(b)-2] }()},
		"zstd, wrong checksum":      {bytes: func() []byte { b := compressZSTD(t, want); b[len(b)-1]++; return b }(), fails: true},
		"zstd, no last block":       {bytes: zstdRaw(want, false)},
		"zstd, half a block header": {bytes: append(zstdRaw(want, false), 1)},
		"zstd, half a block":        {bytes: func() []byte { b := zstdRaw(want, false); return b[:len(b)-1] }(), fails: true},
		"xz, wrong check":           {bytes: func() []byte { b := compressXZ(t, want); b[len(b)-25]++; return b }(), fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := decompressBytes(t, c.bytes, maxImage)
			if c.fails {
				require.Error(t, err)
				return
			}
			require.NoError(t, err)
			require.True(t, bytes.Equal(want, got))
		})
	}
}

// zstdRaw returns a frame of one block that is not compressed, without a
// checksum.
func zstdRaw(data []byte, last bool) []byte {
	b := []byte{0x28, 0xb5, 0x2f, 0xfd, 0, 0x40} // a window of 256 KiB
	header := uint32(len(data)) << 3
	if last {
		header |= 1
	}
	b = append(b, byte(header), byte(header>>8), byte(header>>16))
	return append(b, data...)
}

// xzWithDictionary changes the size of the dictionary that a stream of one block needs.
func xzWithDictionary(b []byte, code byte) []byte {
	// Stream header, then the block header: size, flags, filter, size of its properties,
	// the dictionary.
	header := b[xzHeaderSize : xzHeaderSize+(int(b[xzHeaderSize])+1)*4]
	at := bytes.Index(header, []byte{0x21, 1})
	header[at+2] = code
	binary.LittleEndian.PutUint32(header[len(header)-4:], crc32.ChecksumIEEE(header[:len(header)-4]))
	return b
}

func TestDecompressRefusesLargeDictionaries(t *testing.T) {
	xzDictionary := func(code byte) []byte { return xzWithDictionary(compressXZ(t, sample(5000)), code) }
	zstdWindow := func(exponent byte) []byte {
		b := zstdRaw(sample(5000), true)
		b[5] = exponent << 3
		return b
	}
	for name, c := range map[string]struct {
		bytes []byte
		fails bool
	}{
		"xz 64 MiB":    {xzDictionary(28), false},
		"xz 96 MiB":    {xzDictionary(29), true},
		"xz 4 GiB":     {xzDictionary(40), true},
		"zstd 64 MiB":  {zstdWindow(16), false},
		"zstd 128 MiB": {zstdWindow(17), true},
		"zstd 2 TiB":   {zstdWindow(31), true},
		"zstd, a single segment of 4 GiB": {append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0xa0, 0xff, 0xff, 0xff, 0xff},
			zstdRaw(sample(10), true)[6:]...), true},
	} {
		t.Run(name, func(t *testing.T) {
			var err error
			cost := allocated(func() { _, err = decompressBytes(t, c.bytes, maxImage) })
			if c.fails {
				require.Error(t, err)
				require.Less(t, cost, uint64(4<<20))
				return
			}
			require.NoError(t, err)
			require.Less(t, cost, uint64(maxDictionary+8<<20))
		})
	}
}

// zstdBomb returns a frame of blocks that repeat one byte.
func zstdBomb(size int64) []byte {
	b := []byte{0x28, 0xb5, 0x2f, 0xfd, 0, byte(16 << 3)} // a window of 64 MiB
	const block = 128 << 10
	for range size / block {
		b = append(b, byte(block<<3&0xff|1<<1), byte(block<<3>>8&0xff), byte(block<<3>>16), 0)
	}
	return append(b, 1, 0, 0)
}

// gzipBomb repeats the compressed form of a megabyte of zeros.
func gzipBomb(t testing.TB, size int64) []byte {
	out := bytes.NewBufferString("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x00")
	w, err := flate.NewWriter(out, flate.BestCompression)
	require.NoError(t, err)
	zeros := make([]byte, 1<<20)
	var unit []byte
	for range 3 {
		start := out.Len()
		_, err = w.Write(zeros)
		require.NoError(t, err)
		require.NoError(t, w.Flush())
		unit = bytes.Clone(out.Bytes()[start:])
	}
	for n := int64(3 << 20); n < size; n += int64(len(zeros)) {
		out.Write(unit)
	}
	require.NoError(t, w.Close()) // an empty last block
	return out.Bytes()
}

// xzBomb repeats a block of zeros that has a dictionary of 64 MiB.
func xzBomb(t testing.TB, size int64) []byte {
	const block = 1 << 20
	var buf bytes.Buffer
	w, err := xz.WriterConfig{CheckSum: xz.CRC32, DictCap: maxDictionary, BlockSize: block}.NewWriter(&buf)
	require.NoError(t, err)
	b := closeInto(t, w, &buf, make([]byte, block))
	// The block ends where the index begins, whose size stands in the footer.
	indexSize := (int(binary.LittleEndian.Uint32(b[len(b)-8:])) + 1) * 4
	one := b[xzHeaderSize : len(b)-xzFooterSize-indexSize]
	bomb := bytes.Clone(b[:xzHeaderSize])
	for n := int64(0); n < size; n += block {
		bomb = append(bomb, one...)
	}
	// Enough of an index to find the end. The kernel reads it last, too.
	records := size / block
	bomb = append(bomb, 0, byte(records&0x7f|0x80), byte(records>>7))
	for range records {
		bomb = append(bomb, 1, 1)
	}
	for len(bomb)%4 != 0 {
		bomb = append(bomb, 0)
	}
	return append(bomb, make([]byte, 4+xzFooterSize)...)
}

func TestReadBomb(t *testing.T) {
	skipUnderRace(t)
	bomb := gzipBomb(t, 8*maxImage)
	var m Image
	cost := allocated(func() { m = readBytes(t, bomb) })
	require.Equal(t, sum(bomb), m.SHA256)
	require.Empty(t, m.ImageSHA256)
	require.Contains(t, m.Missing, "image_sha256")
	require.Less(t, cost, uint64(maxKept+2<<20))
}

func TestBombsCostNoMoreThanTheLimit(t *testing.T) {
	const size, limit = 1 << 30, 64 << 20
	for name, bomb := range map[string][]byte{
		"gzip": gzipBomb(t, size), "xz": xzBomb(t, size), "zstd": zstdBomb(size),
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			var err error
			cost := allocated(func() { _, err = decompressBytes(t, bomb, limit) })
			t.Logf("%d bytes: %d MiB allocated in %v", len(bomb), cost>>20, time.Since(start))
			require.ErrorIs(t, err, errTooLarge)
			require.Less(t, cost, uint64(maxKept+maxDictionary+8<<20))
			require.Less(t, time.Since(start), time.Minute)
		})
	}
}

// skipUnderRace skips a test that has one goroutine and takes minutes under the race
// detector.
func skipUnderRace(t *testing.T) {
	t.Helper()
	if race.Enabled {
		t.Skip("it has one goroutine, and takes minutes under the race detector")
	}
}

// The bombs are valid input.
func TestBombsDecompress(t *testing.T) {
	skipUnderRace(t)
	const size = 64 << 20
	for name, bomb := range map[string][]byte{"gzip": gzipBomb(t, size), "zstd": zstdBomb(size)} {
		t.Run(name, func(t *testing.T) {
			got, err := decompressBytes(t, bomb, maxImage)
			require.NoError(t, err)
			require.Len(t, got, size)
		})
	}
}

func TestDecompressTakesLinearTime(t *testing.T) {
	const size = 4 << 20
	empty := map[string][]byte{
		"gzip": append([]byte("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x00"),
			bytes.Repeat([]byte{0, 0, 0, 0xff, 0xff}, size/5)...),
		"zstd": append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0, 0}, make([]byte, size)...),
	}
	for name, b := range empty {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			require.Less(t, allocated(func() { _, _ = decompressBytes(t, b, maxImage) }), uint64(4<<20))
			require.Less(t, time.Since(start), time.Minute)
		})
	}
}

func TestPanicsBecomeErrors(t *testing.T) {
	err := guard(func() error { panic("index out of range") })
	require.ErrorContains(t, err, "index out of range")
}

// bigModule returns a module whose parts are far from each other, in this order: the ELF
// header, the names of sections if they come first, .modinfo, a signature and all else.
func bigModule(t testing.TB, size int, namesFirst bool) []byte {
	t.Helper()
	filler := testSection{".text", elf.SHF_ALLOC, string(make([]byte, size/2))}
	image := elf64(filler, testModinfo, filler)
	if namesFirst {
		// The section with the names is the last one, and its header too.
		header := image[len(image)-64:]
		at, length := binary.LittleEndian.Uint64(header[24:]), binary.LittleEndian.Uint64(header[32:])
		copy(image[4096:], image[at:at+length]) // in .text
		clear(image[at : at+length])
		binary.LittleEndian.PutUint64(header[24:], 4096)
	}
	return sign(image, testFile(t, "issuer.der"))
}

// A module that is larger than what is kept of it has all its values.
func TestReadLargeCompressedModules(t *testing.T) {
	for _, namesFirst := range []bool{false, true} {
		for _, size := range []int{maxKept - 1<<20, maxKept + 1<<20} {
			image := bigModule(t, size, namesFirst)
			want := readBytes(t, image)
			require.Empty(t, want.Missing)
			require.Equal(t, "kmodquery test key", want.Signature.Signer)
			require.Equal(t, "1.2", want.Version)
			compressions := map[string]func(testing.TB, []byte) []byte{
				"gzip": compressGzip, "zstd": func(t testing.TB, b []byte) []byte { return compressZSTD(t, b) },
			}
			if namesFirst && size > maxKept {
				compressions["xz"] = compressXZ // slow
			}
			for name, compress := range compressions {
				t.Run(fmt.Sprintf("%s of %d MiB, names first %v", name, size>>20, namesFirst), func(t *testing.T) {
					compressed := compress(t, image)
					want.SHA256 = sum(compressed)
					require.Equal(t, want, readBytes(t, compressed))
				})
			}
		}
	}
}

// A part of the image that is not in memory any more is decompressed again.
func TestUnpackedReadsAnyPart(t *testing.T) {
	image := bigModule(t, 3*maxKept, false)
	for i := range image {
		image[i] ^= byte(i >> 16)
	}
	u, err := decompress(t.Context(), sectionReader(compressZSTD(t, image)), maxImage)
	require.NoError(t, err)
	size := int64(len(image))
	for _, off := range []int64{0, 1, chunkSize - 1, chunkSize, chunkSize + 1, size / 2, size - maxKept - chunkSize - 1,
		size - maxKept - 1, size - maxKept, size - maxKept + chunkSize, size - chunkSize, size - 1} {
		for _, length := range []int64{1, 100, chunkSize + 3, 3 * chunkSize, maxKept + 5*chunkSize} {
			length = min(length, size-off)
			got := make([]byte, length)
			n, err := u.ReadAt(got, off)
			require.NoError(t, err)
			require.EqualValues(t, length, n)
			require.True(t, bytes.Equal(image[off:off+length], got), "%d bytes at %d", length, off)
		}
	}
}

// A reading that fails while the module is decompressed again leaves the hashes.
func TestReadFailsWhileDecompressingAgain(t *testing.T) {
	image := bigModule(t, 2*maxKept, false)
	compressed := compressZSTD(t, image)
	count := &cancelReader{ReaderAt: bytes.NewReader(compressed)}
	_, err := Read(context.Background(), count, int64(len(compressed)))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	r := &cancelReader{ReaderAt: bytes.NewReader(compressed), at: count.reads, cancel: cancel}
	m, err := Read(ctx, r, int64(len(compressed)))
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, sum(compressed), m.SHA256)
	require.Equal(t, sum(image), m.ImageSHA256)
	require.Equal(t, ofModinfo, m.Missing)
}

func BenchmarkRead(b *testing.B) {
	for _, size := range []int{40 << 10, 6 << 20, 40 << 20} {
		image := elf64(testSection{".text", 0, string(sample(size))}, testModinfo)
		for name, data := range map[string][]byte{
			"plain": image, "gzip": compressGzip(b, image), "xz": compressXZ(b, image), "zstd": compressZSTD(b, image),
		} {
			b.Run(fmt.Sprintf("%s of %d KiB", name, size>>10), func(b *testing.B) {
				b.SetBytes(int64(len(image)))
				b.ReportAllocs()
				for b.Loop() {
					require.Empty(b, readBytes(b, data).Missing)
				}
			})
		}
	}
}

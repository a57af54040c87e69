package module

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
)

// Bounds of [Read]. A value beyond its bound is named in [Image.Missing].
const (
	// maxImage is the maximum size in bytes of a module after decompression. A module
	// that is not compressed may have any size.
	maxImage = 128 << 20
	// maxDictionary bounds the memory of a decompressor in bytes: the dictionary of
	// xz -9, and the window of zstd up to level 19.
	maxDictionary = 64 << 20
	// maxModinfo bounds the bytes of .modinfo that are read. The largest in the
	// kernels of distributions has about 100 KiB.
	maxModinfo = 1 << 20
	// maxSignature bounds a PKCS#7 message in bytes. One without certificates has
	// about 500 bytes, or up to 51 KiB with the largest post-quantum signature.
	maxSignature = 64 << 10
	// maxValue bounds a single value in bytes. Longer values are cut.
	maxValue = 4 << 10
)

// An Image holds the values that were read from a module. Strings have the bytes of
// the module: they may contain control characters and invalid UTF-8.
type Image struct {
	SHA256 string // of the bytes that were read, in hex
	// ImageSHA256 is the hash of the decompressed module, in hex. It equals SHA256
	// if the module is not compressed, and is empty if it could not be decompressed.
	ImageSHA256 string

	// Values from .modinfo, the first of each key. An empty one is absent or named
	// in Missing. Name is the module's claim: the kernel uses the name in
	// .gnu.linkonce.this_module.
	Name, Version, Srcversion, Vermagic, License string
	// Intree is 1 if .modinfo has an intree entry, whatever its value, because the
	// kernel does not compare it; 0 if it has none; nil if that is unknown.
	Intree *int64

	// Signed reports that the module ends in the marker of an appended signature. It
	// is false if the module could not be decompressed; then Missing has signer.
	Signed bool
	// Signature is the appended signature, which was not verified. It is nil if there
	// is none or it could not be read.
	Signature *Signature

	// Missing names the event columns whose value could not be read in full. A value
	// that was cut is named, and kept.
	Missing []string
}

// A Signature describes the first signer of a PKCS#7 message (RFC 5652), as modinfo(8)
// does. Its values are claims of the message.
type Signature struct {
	// Signer is the common name of the issuer of the key's certificate, or the
	// issuer's last attribute if it has no common name.
	Signer string
	// KeyID is the serial number of that certificate, or its subject key identifier
	// if the message names the signer by it: upper-case hex bytes separated by
	// colons.
	KeyID string
	// Hash is the digest algorithm as the kernel spells it, such as sha256, or its
	// dotted object identifier if the kernel does not know it.
	Hash string
}

// Columns are the names of the event columns that only a module's image provides.
var Columns = []string{
	"sha256", "image_sha256", "vermagic", "license", "intree", "signer", "signature_key_id", "signature_hash",
}

// Event columns of a signature, and of .modinfo.
var (
	signatureColumns = []string{"signer", "signature_key_id", "signature_hash"}
	modinfoColumns   = []string{"version", "srcversion", "vermagic", "license", "intree"}
)

func (m *Image) miss(columns ...string) { m.Missing = append(m.Missing, columns...) }

// Read reads the first size bytes of r: a module, a compressed module, or any other
// bytes that a kernel was asked to load. It returns an error only if r could not be
// read in full or ctx ended; then the Image has the values that were read before.
// Invalid modules are not an error: at least SHA256 is set. Read does not keep r.
func Read(ctx context.Context, r io.ReaderAt, size int64) (Image, error) {
	if size < 0 {
		return Image{}, fmt.Errorf("read module: size %d is negative", size)
	}
	src := &source{ctx: ctx, r: r}
	var m Image
	m.read(src, size)
	if src.err != nil {
		return m, fmt.Errorf("read module: %w", src.err)
	}
	return m, nil
}

func (m *Image) read(src *source, size int64) {
	bytes := io.NewSectionReader(src, 0, size)
	m.SHA256 = sumOf(bytes)
	if src.err != nil {
		m.SHA256 = ""
		return
	}
	image, err := decompress(src.ctx, bytes, maxImage)
	switch {
	case errors.Is(err, errNotCompressed):
		m.ImageSHA256 = m.SHA256
		m.readImage(bytes)
	case err != nil:
		src.check() // the context may have ended while the decompressor only wrote
		m.miss("image_sha256")
		m.miss(signatureColumns...)
		m.miss(modinfoColumns...)
	default:
		defer image.free()
		m.ImageSHA256 = hex.EncodeToString(image.sum.Sum(nil))
		m.readImage(io.NewSectionReader(image, 0, image.size))
		src.check() // the context may have ended while parts were decompressed again
	}
}

// readImage reads a module that is not compressed.
func (m *Image) readImage(image *io.SectionReader) {
	body := m.readSignature(image)
	text, whole, err := modinfo(body)
	if err != nil {
		m.miss(modinfoColumns...)
		return
	}
	m.readModinfo(text, whole)
}

// sumOf returns the SHA-256 of r in hex. It ignores errors, which r's source keeps.
func sumOf(r *io.SectionReader) string {
	buffer := chunks.Get().(*chunk)
	defer chunks.Put(buffer)
	sum := sha256.New()
	_, _ = io.CopyBuffer(sum, r, buffer[:])
	return hex.EncodeToString(sum.Sum(nil))
}

// readFull fills p from an offset.
func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// cut cuts a value to maxValue and reports whether it was longer.
func cut(value string) (string, bool) {
	return value[:min(len(value), maxValue)], len(value) > maxValue
}

package module

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
)

// Bounds on what [Read] spends. Beyond one of them a value is named in
// [Image.Missing].
const (
	// MaxImage is the largest module inside a compressed one, in bytes. It is
	// held in memory. A module that is not compressed may have any size.
	MaxImage = 128 << 20
	// maxDictionary bounds what a compressed module makes its decompressor
	// allocate: the dictionary of xz -9 and the window of zstd up to level 19.
	maxDictionary = 64 << 20
	// maxModinfo bounds how much of .modinfo is read. The largest of a
	// distribution's kernel have some 100 KiB.
	maxModinfo = 1 << 20
	// maxSignature bounds a PKCS#7 message. One without certificates has about
	// 500 bytes, and less than 51 KiB with the largest post-quantum signature.
	maxSignature = 64 << 10
	// maxValue is where a single value is cut, in bytes.
	maxValue = 4 << 10
)

// An Image is what a module's bytes say. Strings hold the bytes as they are:
// they may contain control characters and invalid UTF-8.
type Image struct {
	SHA256 string // of the bytes handed over, in hex
	// ImageSHA256 is of the module inside, in hex. It equals SHA256 where the
	// bytes are not compressed and is empty where they could not be
	// decompressed.
	ImageSHA256 string

	// These stand in .modinfo, where the first of several counts. Empty says
	// that there is none, or that Missing names it. Name is what .modinfo
	// claims; the kernel registers the one in .gnu.linkonce.this_module.
	Name, Version, Srcversion, Vermagic, License string
	// Intree is 1 where .modinfo has an intree entry, whatever its value,
	// because the kernel asks for no more; 0 where it has none; nil where it
	// could not be read.
	Intree *int64

	// Signed says that the bytes end in the marker of an appended signature.
	// It is also false where they could not be decompressed; Missing then
	// names signer.
	Signed bool
	// Signature is what the appended signature says, and not whether it is
	// right. It is nil where none is appended or none of it could be read.
	Signature *Signature

	// Missing names the event columns that should have a value and could not
	// be had in full. A value that was cut is named and kept.
	Missing []string
}

// A Signature tells the first signer of a PKCS#7 message (RFC 5652), as
// modinfo(8) does. Anybody can write any of it.
type Signature struct {
	// Signer is the common name of the issuer of the key's certificate, or the
	// issuer's last attribute where it has none.
	Signer string
	// KeyID is the serial number of that certificate, or its subject key
	// identifier where the signer is named by that: upper-case hex bytes with
	// colons between them.
	KeyID string
	// Hash is the digest algorithm in the kernel's spelling, such as sha256,
	// or its dotted object identifier where it is none that the kernel knows.
	Hash string
}

// Columns of an event.
const (
	columnImageSHA256 = "image_sha256"
	columnSigner      = "signer"
	columnKeyID       = "signature_key_id"
	columnHash        = "signature_hash"
	columnVersion     = "version"
	columnSrcversion  = "srcversion"
	columnVermagic    = "vermagic"
	columnLicense     = "license"
	columnIntree      = "intree"
)

func (m *Image) miss(columns ...string) { m.Missing = append(m.Missing, columns...) }

func (m *Image) missSignature() { m.miss(columnSigner, columnKeyID, columnHash) }

func (m *Image) missModinfo() {
	m.miss(columnVersion, columnSrcversion, columnVermagic, columnLicense, columnIntree)
}

// Read reads the first size bytes of r: a module, a compressed one, or anything
// else that a kernel was asked to load. It returns an error only where r could
// not be read in full or ctx ended; the Image then has what was read before.
// Whatever is wrong with the bytes is not an error, and does not keep SHA256
// from being there. Read keeps nothing of r.
func Read(ctx context.Context, r io.ReaderAt, size int64) (Image, error) {
	if size < 0 {
		return Image{}, fmt.Errorf("read module: size %d is negative", size)
	}
	src := &source{ctx: ctx, r: r, size: size}
	var m Image
	m.read(src)
	if src.err != nil {
		return m, fmt.Errorf("read module: %w", src.err)
	}
	return m, nil
}

func (m *Image) read(src *source) {
	bytes := io.NewSectionReader(src, 0, src.size)
	m.SHA256 = hash(bytes)
	if src.err != nil {
		m.SHA256 = ""
		return
	}
	image, err := decompress(src.ctx, bytes, MaxImage)
	switch {
	case errors.Is(err, errNotCompressed):
		m.ImageSHA256 = m.SHA256
		m.readImage(bytes)
	case err != nil:
		// A context that ended while the decompressor only wrote.
		src.check()
		m.miss(columnImageSHA256)
		m.missSignature()
		m.missModinfo()
	default:
		bytes = io.NewSectionReader(image, 0, image.size)
		m.ImageSHA256 = hash(bytes)
		m.readImage(bytes)
	}
}

// readImage reads a module that is not compressed.
func (m *Image) readImage(image *io.SectionReader) {
	body := m.readSignature(image)
	text, whole, err := modinfo(body)
	if err != nil {
		m.missModinfo()
		return
	}
	m.readModinfo(text, whole)
}

// hash returns the SHA-256 in hex; what it returns where r fails is of no use.
func hash(r *io.SectionReader) string {
	sum := sha256.New()
	buffer := make([]byte, 256<<10)
	for at := int64(0); ; {
		n, err := r.ReadAt(buffer, at)
		sum.Write(buffer[:n])
		at += int64(n)
		if err != nil {
			return hex.EncodeToString(sum.Sum(nil))
		}
	}
}

// readFull fills p from off.
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

// cut shortens a value to what is kept of it and reports whether it had to.
func cut(value string) (string, bool) {
	if len(value) <= maxValue {
		return value, false
	}
	return value[:maxValue], true
}

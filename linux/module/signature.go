package module

import (
	"encoding/binary"
	"io"
)

// marker ends a signed module: MODULE_SIG_STRING of
// include/linux/module_signature.h. In front of it stands a trailer and in
// front of that the signature.
const marker = "~Module signature appended~\n"

// A trailer is struct module_signature of include/linux/module_signature.h.
// Of its fields PKCS#7 uses two.
type trailer struct {
	Algo, Hash, IDType, SignerLen, KeyIDLen uint8
	Pad                                     [3]uint8
	Size                                    uint32
}

// idTypePKCS7 is PKEY_ID_PKCS7, the only one that kernels know since Linux 4.3.
const idTypePKCS7 = 2

// readSignature reads the last signature appended to the image and returns
// what stands in front of it, which is what the kernel loads.
func (m *Image) readSignature(image *io.SectionReader) *io.SectionReader {
	end := image.Size() - int64(len(marker))
	p := make([]byte, len(marker))
	if end <= 0 || readFull(image, p, end) != nil || string(p) != marker {
		return image
	}
	m.Signed = true
	body := io.NewSectionReader(image, 0, end)

	var t trailer
	end -= int64(binary.Size(t))
	// The checks of mod_check_sig in kernel/module_signature.c.
	if end <= 0 || decode(image, end, binary.BigEndian, &t) != nil || int64(t.Size) >= end ||
		t != (trailer{IDType: idTypePKCS7, Size: t.Size}) {
		m.missSignature()
		return body
	}
	end -= int64(t.Size)
	body = io.NewSectionReader(image, 0, end)
	if t.Size > maxSignature {
		m.missSignature()
		return body
	}
	message := make([]byte, t.Size)
	if readFull(image, message, end) != nil {
		m.missSignature()
		return body
	}
	m.readPKCS7(message)
	return body
}

// readPKCS7 takes what is wanted of a signature.
func (m *Image) readPKCS7(message []byte) {
	s, signers, err := parsePKCS7(message)
	if err != nil {
		m.missSignature()
		return
	}
	for _, v := range []struct {
		column string
		value  *string
	}{{columnSigner, &s.Signer}, {columnKeyID, &s.KeyID}, {columnHash, &s.Hash}} {
		var isCut bool
		*v.value, isCut = cut(*v.value)
		// The kernel is content with any one signer that it trusts, so with
		// several nobody knows which it was.
		if isCut || *v.value == "" || signers > 1 {
			m.miss(v.column)
		}
	}
	m.Signature = &s
}

package module

import (
	"encoding/binary"
	"io"
)

// marker is the end of a signed module: MODULE_SIG_STRING of
// include/linux/module_signature.h. Before it is a trailer, and before that the
// signature.
const marker = "~Module signature appended~\n"

// A trailer is struct module_signature of include/linux/module_signature.h. A PKCS#7
// signature uses IDType and Size only.
type trailer struct {
	Algo, Hash, IDType, SignerLen, KeyIDLen uint8
	Pad                                     [3]uint8
	Size                                    uint32
}

// idTypePKCS7 is PKEY_ID_PKCS7, the only type that Linux supports since 4.3.
const idTypePKCS7 = 2

// readSignature reads the last signature appended to the image. It returns the part
// before it, which is the module that the kernel loads.
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
		m.miss(signatureColumns...)
		return body
	}
	end -= int64(t.Size)
	message := make([]byte, min(t.Size, maxSignature))
	if t.Size > maxSignature || readFull(image, message, end) != nil {
		m.miss(signatureColumns...)
	} else {
		m.readPKCS7(message)
	}
	return io.NewSectionReader(image, 0, end)
}

// readPKCS7 sets the fields that come from a signature.
func (m *Image) readPKCS7(message []byte) {
	s, signers, err := parsePKCS7(message)
	if err != nil {
		m.miss(signatureColumns...)
		return
	}
	for i, value := range []*string{&s.Signer, &s.KeyID, &s.Hash} {
		var isCut bool
		*value, isCut = cut(*value)
		// The kernel accepts a message if it trusts any signer, so with several
		// signers it is unknown which one it trusted.
		if isCut || *value == "" || signers > 1 {
			m.miss(signatureColumns[i])
		}
	}
	m.Signature = &s
}

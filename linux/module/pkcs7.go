package module

import (
	"cmp"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"unicode/utf16"
)

// The parts of a PKCS#7 message that name the signer (RFC 5652, sections 3 and 5), for
// encoding/asn1. Certificates are not decoded: the kernel's own signatures have none.
//
// PKCS#7 libraries are not used because they convert BER to DER first, all with the
// same recursive function. Its time doubles with every four bytes of a crafted
// message: 90 bytes take seconds.
type (
	contentInfo struct {
		Type    asn1.ObjectIdentifier
		Content signedData `asn1:"explicit,tag:0"`
	}
	signedData struct {
		Version          int
		DigestAlgorithms asn1.RawValue
		Content          asn1.RawValue
		Certificates     asn1.RawValue   `asn1:"optional,tag:0"`
		CRLs             asn1.RawValue   `asn1:"optional,tag:1"`
		Signers          []asn1.RawValue `asn1:"set"`
	}
	signerInfo struct {
		Version         int
		ID              asn1.RawValue // issuerAndSerial, or a key identifier with tag 0
		DigestAlgorithm pkix.AlgorithmIdentifier
	}
	issuerAndSerial struct {
		Issuer []attributeSET
		Serial *big.Int
	}
	attributeSET []attribute
	attribute    struct {
		Type  asn1.ObjectIdentifier
		Value asn1.RawValue
	}
)

var (
	oidSignedData = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
	oidCommonName = asn1.ObjectIdentifier{2, 5, 4, 3}
)

// digestNames are the digests as the kernel's crypto API spells them.
var digestNames = map[string]string{
	"1.2.840.113549.2.4":      "md4",
	"1.2.840.113549.2.5":      "md5",
	"1.2.156.10197.1.401":     "sm3",
	"1.3.14.3.2.26":           "sha1",
	"1.3.36.3.2.1":            "rmd160",
	"2.16.840.1.101.3.4.2.1":  "sha256",
	"2.16.840.1.101.3.4.2.2":  "sha384",
	"2.16.840.1.101.3.4.2.3":  "sha512",
	"2.16.840.1.101.3.4.2.4":  "sha224",
	"2.16.840.1.101.3.4.2.8":  "sha3-256",
	"2.16.840.1.101.3.4.2.9":  "sha3-384",
	"2.16.840.1.101.3.4.2.10": "sha3-512",
}

// parsePKCS7 returns the first signer of a message and the number of signers.
func parsePKCS7(message []byte) (Signature, int, error) {
	var info contentInfo
	if _, err := asn1.Unmarshal(message, &info); err != nil {
		return Signature{}, 0, fmt.Errorf("parse PKCS#7: %w", err)
	}
	signers := info.Content.Signers
	if !info.Type.Equal(oidSignedData) || len(signers) == 0 {
		return Signature{}, 0, errors.New("parse PKCS#7: no signer")
	}
	var first signerInfo
	if _, err := asn1.Unmarshal(signers[0].FullBytes, &first); err != nil {
		return Signature{}, 0, fmt.Errorf("parse signer: %w", err)
	}
	digest := first.DigestAlgorithm.Algorithm.String()
	s := Signature{Hash: cmp.Or(digestNames[digest], digest)}
	if first.ID.Class == asn1.ClassContextSpecific && first.ID.Tag == 0 && !first.ID.IsCompound {
		s.KeyID = keyID(first.ID.Bytes)
		return s, len(signers), nil
	}
	var id issuerAndSerial
	if _, err := asn1.Unmarshal(first.ID.FullBytes, &id); err != nil {
		return Signature{}, 0, fmt.Errorf("parse issuer of signer: %w", err)
	}
	s.Signer = commonName(id.Issuer)
	// modinfo(8) prints the magnitude without leading zeros.
	s.KeyID = keyID(id.Serial.FillBytes(make([]byte, max(1, (id.Serial.BitLen()+7)/8))))
	return s, len(signers), nil
}

// commonName returns the first common name, or the last attribute if there is none, as
// modinfo(8) does.
func commonName(name []attributeSET) string {
	var last string
	for _, set := range name {
		for _, a := range set {
			last = text(a.Value)
			if a.Type.Equal(oidCommonName) {
				return last
			}
		}
	}
	return last
}

// text returns a string of any of X.520's types. All but one extend ASCII; a BMPString is
// UTF-16, the high byte first.
func text(v asn1.RawValue) string {
	if v.Tag != asn1.TagBMPString {
		return string(v.Bytes)
	}
	units := make([]uint16, len(v.Bytes)/2)
	for i := range units {
		units[i] = binary.BigEndian.Uint16(v.Bytes[2*i:])
	}
	return string(utf16.Decode(units))
}

// keyID formats bytes as in 0A:FF.
func keyID(id []byte) string {
	return strings.ReplaceAll(fmt.Sprintf("% X", id), " ", ":")
}

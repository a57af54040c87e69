//go:build linux

package kmod

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
)

// A signed module ends with its signature, a struct module_signature and this
// text (include/linux/module_signature.h).
const (
	signatureText = "~Module signature appended~\n"
	trailerSize   = 12 // of struct module_signature
	pkcs7         = 2  // PKEY_ID_PKCS7, its id_type
)

var errUnsigned = errors.New("the module is not signed")

// split returns the signed content of a module and its signature.
func split(image []byte) (content, signature []byte, err error) {
	rest, ok := bytes.CutSuffix(image, []byte(signatureText))
	if !ok || len(rest) < trailerSize {
		return nil, nil, errUnsigned
	}
	rest, trailer := rest[:len(rest)-trailerSize], rest[len(rest)-trailerSize:]
	size := binary.BigEndian.Uint32(trailer[8:])
	if uint64(size) > uint64(len(rest)) {
		return nil, nil, fmt.Errorf("the signature's %d bytes are more than the module has", size)
	}
	at := len(rest) - int(size)
	return rest[:at], rest[at:], nil
}

// join reverses split.
func join(content, signature []byte) []byte {
	trailer := make([]byte, trailerSize)
	trailer[2] = pkcs7
	binary.BigEndian.PutUint32(trailer[8:], uint32(len(signature)))
	return bytes.Join([][]byte{content, signature, trailer, []byte(signatureText)}, nil)
}

// Strip returns the module without its signature.
func Strip(image []byte) ([]byte, error) {
	content, _, err := split(image)
	return bytes.Clone(content), err
}

// Forge returns the module with one bit of its signature changed.
func Forge(image []byte) ([]byte, error) {
	content, signature, err := split(image)
	if err != nil {
		return nil, err
	}
	forged := bytes.Clone(signature)
	// The last byte of a PKCS#7 without certificates is the signature's own.
	forged[len(forged)-1] ^= 1
	return join(content, forged), nil
}

// Overlong returns the module with a signature whose stated length exceeds the whole
// module.
func Overlong(image []byte) ([]byte, error) {
	if _, _, err := split(image); err != nil {
		return nil, err
	}
	image = bytes.Clone(image)
	size := image[len(image)-len(signatureText)-4:]
	binary.BigEndian.PutUint32(size, uint32(len(image)))
	return image, nil
}

// The parts of RFC 2315 and RFC 5652 that a module's signature has. Like those of
// scripts/sign-file.c, it has no certificates and no attributes.
type (
	contentInfo struct {
		Type    asn1.ObjectIdentifier
		Content signedData `asn1:"explicit,tag:0"`
	}
	signedData struct {
		Version          int
		DigestAlgorithms []pkix.AlgorithmIdentifier `asn1:"set"`
		ContentInfo      struct{ Type asn1.ObjectIdentifier }
		SignerInfos      []signerInfo `asn1:"set"`
	}
	signerInfo struct {
		Version   int
		Issuer    issuerAndSerial
		Digest    pkix.AlgorithmIdentifier
		Algorithm pkix.AlgorithmIdentifier
		Signature []byte
	}
	issuerAndSerial struct {
		Name   pkix.RDNSequence
		Serial *big.Int
	}
)

var (
	oidData            = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
	oidSignedData      = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
	oidSHA256          = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
	oidECDSAWithSHA256 = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}
)

// Sign signs an unsigned module in the given name, with a new ECDSA key that no kernel
// has. Kernels before 5.13 do not support the algorithm either.
func Sign(image []byte, name string) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	digest := sha256.Sum256(image)
	signature, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 159))
	if err != nil {
		return nil, fmt.Errorf("choose a serial number: %w", err)
	}
	serial.SetBit(serial, 158, 1) // as long as OpenSSL's
	sha256 := pkix.AlgorithmIdentifier{Algorithm: oidSHA256, Parameters: asn1.NullRawValue}
	info := contentInfo{Type: oidSignedData, Content: signedData{
		Version:          1,
		DigestAlgorithms: []pkix.AlgorithmIdentifier{sha256},
		SignerInfos: []signerInfo{{
			Version: 1,
			Issuer: issuerAndSerial{
				Name:   pkix.Name{Organization: []string{"kmodquery"}, CommonName: name}.ToRDNSequence(),
				Serial: serial,
			},
			Digest:    sha256,
			Algorithm: pkix.AlgorithmIdentifier{Algorithm: oidECDSAWithSHA256},
			Signature: signature,
		}},
	}}
	info.Content.ContentInfo.Type = oidData
	der, err := asn1.Marshal(info)
	if err != nil {
		return nil, fmt.Errorf("write the signature: %w", err)
	}
	return join(image, der), nil
}

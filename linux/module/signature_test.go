package module

import (
	"bytes"
	"encoding/asn1"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// message returns a PKCS#7 message.
func message(t testing.TB, signers ...[]byte) []byte {
	t.Helper()
	content := contentInfo{Type: oidSignedData, Content: signedData{
		Version:          1,
		DigestAlgorithms: asn1.RawValue{Tag: asn1.TagSet, IsCompound: true},
		Content:          asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true},
	}}
	for _, s := range signers {
		content.Content.Signers = append(content.Content.Signers, asn1.RawValue{FullBytes: s})
	}
	return marshal(t, content)
}

// signer returns one signer of a message.
func signer(t testing.TB, digest asn1.ObjectIdentifier, id []byte) []byte {
	t.Helper()
	s := signerInfo{Version: 1, ID: asn1.RawValue{FullBytes: id}}
	s.DigestAlgorithm.Algorithm = digest
	return marshal(t, s)
}

func issuer(t testing.TB, serial int64, names ...attributeSET) []byte {
	t.Helper()
	return marshal(t, issuerAndSerial{names, big.NewInt(serial)})
}

func attributeOf(kind asn1.ObjectIdentifier, value string) attribute {
	return attribute{kind, asn1.RawValue{Tag: asn1.TagUTF8String, Bytes: []byte(value)}}
}

func marshal(t testing.TB, value any) []byte {
	t.Helper()
	b, err := asn1.Marshal(value)
	require.NoError(t, err)
	return b
}

var (
	oidSHA256       = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
	oidOrganization = asn1.ObjectIdentifier{2, 5, 4, 10}
	oidUnit         = asn1.ObjectIdentifier{2, 5, 4, 11}
)

func TestReadPKCS7(t *testing.T) {
	named := func(serial int64, sets ...attributeSET) []byte {
		return message(t, signer(t, oidSHA256, issuer(t, serial, sets...)))
	}
	common := attributeSET{attributeOf(oidCommonName, "Key")}
	all := ofSignature
	for name, c := range map[string]struct {
		message []byte
		want    *Signature
		missing []string
	}{
		"by issuer":         {testFile(t, "issuer.der"), &Signature{"kmodquery test key", "8F:3A:5C:07:11:DE:42:0B", "sha256"}, nil},
		"with certificate":  {testFile(t, "certificate.der"), &Signature{"kmodquery test key", "8F:3A:5C:07:11:DE:42:0B", "sha384"}, nil},
		"by key identifier": {testFile(t, "keyid.der"), &Signature{"", "04:CB:99:8E:55:4A:40:E7:26:8A:E3:0D:F2:E0:A4:4A:DB:27:7C:AF", "sha512"}, []string{"signer"}},
		"first common name": {named(10, attributeSET{attributeOf(oidOrganization, "Org")}, common,
			attributeSET{attributeOf(oidCommonName, "Other")}), &Signature{"Key", "0A", "sha256"}, nil},
		"no common name": {named(256, attributeSET{attributeOf(oidOrganization, "Org")},
			attributeSET{attributeOf(oidUnit, "Unit")}), &Signature{"Unit", "01:00", "sha256"}, nil},
		"UTF-16": {named(1, attributeSET{{oidCommonName, asn1.RawValue{Tag: asn1.TagBMPString, Bytes: []byte("\x00K\x00e\x00y\x20\xac")}}}),
			&Signature{"Key€", "01", "sha256"}, nil},
		"no name":         {named(1), &Signature{"", "01", "sha256"}, []string{"signer"}},
		"serial zero":     {named(0, common), &Signature{"Key", "00", "sha256"}, nil},
		"serial negative": {named(-2, common), &Signature{"Key", "02", "sha256"}, nil},
		"long name": {named(1, attributeSET{attributeOf(oidCommonName, strings.Repeat("x", maxValue+1))}),
			&Signature{strings.Repeat("x", maxValue), "01", "sha256"}, []string{"signer"}},
		"unknown digest": {message(t, signer(t, asn1.ObjectIdentifier{1, 2, 3}, issuer(t, 1, common))),
			&Signature{"Key", "01", "1.2.3"}, nil},
		"two signers": {message(t, signer(t, oidSHA256, issuer(t, 1, common)), signer(t, oidSHA256, issuer(t, 2, common))),
			&Signature{"Key", "01", "sha256"}, all},
		"no signer":        {message(t), nil, all},
		"empty":            {nil, nil, all},
		"ends early":       {testFile(t, "issuer.der")[:120], nil, all},
		"no signed data":   {bytes.Replace(testFile(t, "issuer.der"), marshal(t, oidSignedData), marshal(t, asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 3}), 1), nil, all},
		"signer is a null": {message(t, asn1.NullBytes), nil, all},
		"issuer is a null": {message(t, signer(t, oidSHA256, asn1.NullBytes)), nil, all},
	} {
		t.Run(name, func(t *testing.T) {
			var m Image
			m.readPKCS7(c.message)
			require.Equal(t, c.want, m.Signature)
			require.Equal(t, c.missing, m.Missing)
		})
	}
}

// These messages take other libraries exponential time, quadratic time or a deep
// stack.
func TestPKCS7TakesLinearTime(t *testing.T) {
	bombs := map[string][]byte{
		"nested":     bytes.Repeat([]byte{0x30, 0x80}, maxSignature/2),
		"siblings":   append([]byte{0x30, 0x80}, bytes.Repeat([]byte{0x04, 0x00}, maxSignature/2-1)...),
		"big number": marshal(t, new(big.Int).Lsh(big.NewInt(1), maxSignature*8-64)),
		"signers": func() []byte {
			null := make([][]byte, 30000)
			for i := range null {
				null[i] = asn1.NullBytes
			}
			return message(t, null...)
		}(),
		"issuers": message(t, signer(t, oidSHA256, marshal(t, issuerAndSerial{make([]attributeSET, 30000), big.NewInt(1)}))),
	}
	var overlap []byte
	for i := range 60 {
		overlap = append(overlap, 0x30, 2, 0x30, byte(4*(59-i)))
	}
	bombs["overlapping"] = append([]byte{0x30, 0x81, byte(len(overlap))}, overlap...)
	for name, bomb := range bombs {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			require.Less(t, allocated(func() {
				var m Image
				m.readPKCS7(bomb)
				require.NotEmpty(t, m.Missing)
			}), uint64(16<<20))
			require.Less(t, time.Since(start), 20*time.Second)
		})
	}
}

func TestReadSignature(t *testing.T) {
	plain := elf64(testModinfo)
	der := testFile(t, "issuer.der")
	size := uint32(len(der))
	for name, c := range map[string]struct {
		bytes           []byte
		signed, missing bool
	}{
		"none":             {bytes: plain},
		"marker elsewhere": {bytes: append(sign(plain, der), '\n')},
		"right":            {bytes: sign(plain, der), signed: true},
		"marker only":      {bytes: append(bytes.Clone(plain), marker...), signed: true, missing: true},
		"PGP":              {bytes: signWith(plain, der, trailer{Size: size}), signed: true, missing: true},
		"field set":        {bytes: signWith(plain, der, trailer{Algo: 1, IDType: 2, Size: size}), signed: true, missing: true},
		"padding set":      {bytes: signWith(plain, der, trailer{IDType: 2, Pad: [3]uint8{0, 0, 1}, Size: size}), signed: true, missing: true},
		"too long":         {bytes: signWith(plain, der, trailer{IDType: 2, Size: 1 << 31}), signed: true, missing: true},
		"over the bound":   {bytes: sign(plain, append(bytes.Clone(der), make([]byte, maxSignature)...)), signed: true, missing: true},
		"empty":            {bytes: sign(plain, nil), signed: true, missing: true},
		"all of it":        {bytes: sign(nil, der), signed: true, missing: true},
	} {
		t.Run(name, func(t *testing.T) {
			m := readBytes(t, c.bytes)
			require.Equal(t, c.signed, m.Signed)
			require.Equal(t, c.signed && !c.missing, m.Signature != nil)
			if c.missing {
				require.Subset(t, m.Missing, ofSignature)
			} else {
				require.Empty(t, m.Missing)
			}
		})
	}
}

// The signature is not part of the module, even if sections reach into it.
func TestSignatureIsNotReadAsModule(t *testing.T) {
	var m Image
	plain := elf64(testModinfo)
	body := m.readSignature(sectionReader(sign(plain, testFile(t, "issuer.der"))))
	require.EqualValues(t, len(plain), body.Size())
}

func TestSignatureIsReadAsModinfoDoes(t *testing.T) {
	program, err := exec.LookPath("modinfo")
	if err != nil {
		program = "/usr/sbin/modinfo"
	}
	if _, err := os.Stat(program); err != nil {
		t.Skip("modinfo is not installed (package kmod)")
	}
	for _, name := range []string{"issuer.der", "certificate.der"} {
		t.Run(name, func(t *testing.T) {
			b := sign(elf64(testModinfo), testFile(t, name))
			path := filepath.Join(t.TempDir(), "sample.ko")
			require.NoError(t, os.WriteFile(path, b, 0o600))
			m := readBytes(t, b)
			require.NotNil(t, m.Signature)
			for field, value := range map[string]string{
				"signer": m.Signature.Signer, "sig_key": m.Signature.KeyID, "sig_hashalgo": m.Signature.Hash,
				"vermagic": m.Vermagic, "version": m.Version, "srcversion": m.Srcversion,
			} {
				out, err := exec.Command(program, "-F", field, path).Output()
				require.NoError(t, err)
				require.Equal(t, value+"\n", string(out), field)
			}
		})
	}
}

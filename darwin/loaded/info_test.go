package loaded

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"howett.net/plist"
)

func infoIn(t testing.TB, format int) []byte {
	text, err := plist.Marshal(map[string]any{
		"CFBundleIdentifier": probe, "CFBundleVersion": "1.2.3", "CFBundleExecutable": "probe",
		"OSBundleLibraries": map[string]string{"com.apple.kpi.libkern": "8.0"}, "list": []any{1, true, "ü"},
	}, format)
	require.NoError(t, err)
	return text
}

func TestParseInfoReadsBothFormats(t *testing.T) {
	for _, format := range []int{plist.XMLFormat, plist.BinaryFormat} {
		i, err := parseInfo(infoIn(t, format))
		require.NoError(t, err)
		require.Equal(t, info{ID: probe, Executable: "probe"}, i)
	}
}

func TestInvalidInfosAreErrors(t *testing.T) {
	binaryInfo := infoIn(t, plist.BinaryFormat)
	change := func(at int, to ...byte) string {
		b := append([]byte(nil), binaryInfo...)
		copy(b[len(b)-32+at:], to)
		return string(b)
	}
	many := binary.BigEndian.AppendUint64(nil, 1<<33)
	for name, text := range map[string]string{
		"nothing":        "",
		"text":           `{ CFBundleIdentifier = "x"; }`,
		"an array":       "<plist><array/></plist>",
		"half":           "<plist><dict><key>CFBundleIdentifier</key><string>x",
		"deep":           "<plist>" + strings.Repeat("<array>", maxDepth+1),
		"large":          "<plist>" + strings.Repeat(" ", maxInfo),
		"a number":       "<plist><dict><key>CFBundleIdentifier</key><integer>x</integer></dict></plist>",
		"short":          "bplist00",
		"cut":            string(binaryInfo[:len(binaryInfo)/2]),
		"large binary":   "bplist00" + strings.Repeat("x", maxBinaryInfo),
		"no offsets":     change(6, 0, 1, many[0], many[1], many[2], many[3], many[4], many[5], many[6], many[7]),
		"no references":  change(7, 0),
		"objects enough": change(8, many...),
		"top":            change(16, many...),
	} {
		t.Run(name, func(t *testing.T) {
			i, err := parseInfo([]byte(text))
			require.ErrorIs(t, err, errInfo)
			require.Zero(t, i)
		})
	}
}

func FuzzInfo(f *testing.F) {
	f.Add(infoIn(f, plist.XMLFormat))
	f.Add(infoIn(f, plist.BinaryFormat))
	f.Fuzz(func(t *testing.T, text []byte) {
		if _, err := parseInfo(text); err != nil {
			require.ErrorIs(t, err, errInfo)
		}
	})
}

func FuzzList(f *testing.F) {
	f.Add(usbRow + probeRow)
	f.Fuzz(func(t *testing.T, text string) {
		modules, _ := parseList(text)
		for _, m := range modules {
			require.NotEmpty(t, m.Name)
			require.False(t, m.IsHidden())
		}
	})
}

package loaded

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

func TestFileDescribesTheBundleOfAnExtension(t *testing.T) {
	h := newMac(t)
	path := h.bundle("Library", "probe.kext", probe)
	h.write("signatures/probe.kext", "Identifier="+probe+"\nCDHash="+cdhash+"\nSignature size=9000\nAuthority=Developer ID Application: Example ("+team+")\nAuthority=Developer ID Certification Authority\nAuthority=Apple Root CA\nTeamIdentifier="+team+"\n")
	want := kmodquery.ModuleFile{
		Path: path, SHA256: sha(probe), Signer: "Developer ID Application: Example (" + team + ")", TeamID: team, CDHash: cdhash,
	}
	require.Equal(t, want, h.File(t.Context(), kmodquery.Module{Name: probe}))
	require.Equal(t, want, h.File(t.Context(), kmodquery.Module{Name: probe, Path: path}))
	require.Equal(t, want, h.File(t.Context(), kmodquery.Module{Name: probe, Path: "/nosuch"}))
	require.Equal(t, want, h.File(t.Context(), kmodquery.Module{Name: probe, Path: h.bundle("elsewhere", "x.kext", "com.example.other")}))
	arguments, err := os.ReadFile(filepath.Join(h.dir, "codesign.arguments"))
	require.NoError(t, err)
	require.Contains(t, string(arguments), "-d --verbose=4 "+path+"\n")

	// An unsigned bundle inside another one. The first folder counts.
	inner := h.bundle("System/outer.kext/Contents/PlugIns", "inner.kext", "com.example.inner")
	h.bundle("System", "outer.kext", "com.example.outer")
	h.bundle("Library", "inner.kext", "com.example.inner")
	require.Equal(t, kmodquery.ModuleFile{Path: inner, SHA256: sha("com.example.inner")}, h.File(t.Context(), kmodquery.Module{Name: "com.example.inner"}))

	// A bundle without an executable, like Apple's.
	require.NoError(t, os.Remove(filepath.Join(path, "Contents/MacOS/x")))
	got := h.File(t.Context(), kmodquery.Module{Name: probe})
	require.Equal(t, team+" sha256", got.TeamID+" "+got.Missing.String())

	require.Equal(t, kmodquery.ModuleFile{Missing: "path,sha256,signer,team_id,cdhash"}, h.File(t.Context(), kmodquery.Module{Name: "com.example.none"}))
	other := h.bundle("elsewhere", "y.kext", "com.example.other")
	require.Equal(t, kmodquery.ModuleFile{Path: other, Missing: "sha256,signer,team_id,cdhash"}, h.File(t.Context(), kmodquery.Module{Name: "com.example.none", Path: other}))
}

func TestFileOfARelativePathIsUnknown(t *testing.T) {
	h := newMac(t)
	t.Chdir(filepath.Dir(h.bundle("elsewhere", "--xml.kext", "com.example.none")))
	want := kmodquery.ModuleFile{Path: "--xml.kext", Missing: "sha256,signer,team_id,cdhash"}
	require.Equal(t, want, h.File(t.Context(), kmodquery.Module{Name: "com.example.none", Path: "--xml.kext"}))
	require.NoFileExists(t, filepath.Join(h.dir, "codesign.arguments"))

	path := h.bundle("Library", "probe.kext", probe)
	require.Equal(t, path, h.File(t.Context(), kmodquery.Module{Name: probe, Path: "probe.kext"}).Path)
}

func TestFileOfAHostileBundle(t *testing.T) {
	h := newMac(t)
	name := "x\nAuthority=Apple.kext"
	path := h.bundle("Library", name, probe)
	h.write(filepath.Join("signatures", name), "TeamIdentifier=not set\n")
	file := h.File(t.Context(), kmodquery.Module{Name: probe, Path: path})
	require.Equal(t, kmodquery.ModuleFile{Path: path, SHA256: sha(probe), Missing: "signer,team_id,cdhash"}, file)

	// An executable that is a pipe.
	path = h.bundle("Library", "pipe.kext", probe)
	executable := filepath.Join(path, "Contents/MacOS/x")
	require.NoError(t, os.Remove(executable))
	require.NoError(t, syscall.Mkfifo(executable, 0o600))
	require.Contains(t, h.File(t.Context(), kmodquery.Module{Name: probe, Path: path}).Missing, "sha256")

	h.write("codesign_hangs", "")
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	began := time.Now()
	require.Contains(t, h.File(ctx, kmodquery.Module{Name: probe, Path: path}).Missing, "cdhash")
	require.Less(t, time.Since(began), time.Minute)
}

func TestParseSignatureTakesTheFirstAuthority(t *testing.T) {
	require.Equal(t, signature{}, parseSignature("Signature=adhoc\nTeamIdentifier=not set\nCDHash=xyz\n"))
	require.Equal(t, signature{authority: "Software Signing", cdhash: cdhash}, parseSignature("CDHash="+cdhash+"\nAuthority=Software Signing\nAuthority=Apple Root CA\nTeamIdentifier=not set"))
}
